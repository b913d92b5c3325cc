package tfbert

import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder
import kotlin.math.exp
import org.tensorflow.lite.Interpreter

/** A word for a mask, or a label of a text, and how likely it is. */
data class Answer(val text: String, val probability: Float)

/**
 * A .tflite that takes ids (`python -m export.tflite --inputs=ids`): it needs no op but LiteRT's own, and its vocabulary is
 * in the file. Copy the asset to a file first: a zip is read from its end.
 */
class IdsModel(path: String, threads: Int = 2) : AutoCloseable {
    private val interpreter = Interpreter(File(path), Interpreter.Options().setNumThreads(threads))
    private val read = WordPiece.read(path)
    private val tokenizer = read.first
    private val labels = read.second

    /** The likeliest words for each [MASK] of a text, of a pre-trained model. */
    fun fillMask(text: String): List<List<Answer>> {
        val row = tokenizer.pack(tokenizer.ids(text))
        run(row, listOf("ids", "probabilities"))
        val (_, masks, k) = shape("ids")
        val ids = buffer("ids").asIntBuffer()
        val probabilities = buffer("probabilities").asFloatBuffer()
        val answered = minOf(masks, row.inputIds.count { it == tokenizer.id("[MASK]") })
        return List(answered) { m -> List(k) { Answer(tokenizer.tokens[ids[m * k + it]], probabilities[m * k + it]) } }
    }

    /** The labels of a text or a pair, likeliest first, of a model that was fine-tuned to classify. */
    fun classify(text: String, pair: String? = null): List<Answer> {
        run(tokenizer.pack(tokenizer.ids(text), pair?.let(tokenizer::ids).orEmpty()), listOf("logits"))
        val logits = buffer("logits").asFloatBuffer()
        val largest = labels.indices.maxOf { logits[it] }
        val weights = labels.indices.map { exp(logits[it] - largest) }
        val answers = labels.indices.map { Answer(labels[it], weights[it] / weights.sum()) }
        return answers.sortedByDescending { it.probability }
    }

    // Outputs are as wide as the row and its masks, which is known when the model has run. Null leaves them where they are.
    private fun run(row: WordPiece.Row, outputs: List<String>) = interpreter.runSignature(
        mapOf(
            "input_ids" to arrayOf(row.inputIds),
            "input_mask" to arrayOf(row.inputMask),
            "segment_ids" to arrayOf(row.segmentIds),
        ),
        outputs.associateWith { null },
        SIGNATURE,
    )

    private fun shape(output: String) = interpreter.getOutputTensorFromSignature(output, SIGNATURE).shape()

    private fun buffer(output: String): ByteBuffer =
        interpreter.getOutputTensorFromSignature(output, SIGNATURE).asReadOnlyBuffer().order(ByteOrder.nativeOrder())

    override fun close() = interpreter.close()

    private companion object {
        const val SIGNATURE = "from_ids"
    }
}

/**
 * A .tflite that takes strings: its tokenizer is two ops of tensorflow-text. The runtime must know them: README.md says
 * how libtensorflowlite_jni.so is built with text_ops_jni.cc, and that no released AAR has them.
 */
class TextModel(path: String, threads: Int = 2) : AutoCloseable {
    private val interpreter = Interpreter(File(path), Interpreter.Options().setNumThreads(threads))

    /** The likeliest words for each [MASK] of a text. */
    fun fillMask(text: String): List<List<Answer>> {
        val outputs = listOf("tokens", "probabilities", "positions")
        interpreter.runSignature(mapOf("text" to arrayOf(text)), outputs.associateWith { null }, SIGNATURE)
        val (_, masks, k) = interpreter.getOutputTensorFromSignature("tokens", SIGNATURE).shape()
        val tokens = strings(buffer("tokens"))
        val probabilities = buffer("probabilities").asFloatBuffer()
        val positions = buffer("positions").asIntBuffer()
        val answered = (0 until masks).filter { positions[it] >= 0 } // of a text without a mask there is one, at -1
        return answered.map { m -> List(k) { Answer(tokens[m * k + it], probabilities[m * k + it]) } }
    }

    private fun buffer(output: String): ByteBuffer =
        interpreter.getOutputTensorFromSignature(output, SIGNATURE).asReadOnlyBuffer().order(ByteOrder.nativeOrder())

    override fun close() = interpreter.close()

    companion object {
        private const val SIGNATURE = "serving_default"

        /** The strings of a tensor: their count n, n + 1 places of bytes, then the bytes. */
        fun strings(buffer: ByteBuffer): List<String> = List(buffer.getInt(0)) { i ->
            val start = buffer.getInt(4 * (i + 1))
            val bytes = ByteArray(buffer.getInt(4 * (i + 2)) - start) { buffer.get(start + it) }
            bytes.toString(Charsets.UTF_8)
        }
    }
}
