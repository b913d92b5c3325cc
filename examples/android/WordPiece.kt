package tfbert

import java.io.InputStream
import java.text.Normalizer
import java.util.zip.ZipFile

/**
 * BERT's WordPiece tokenization, for a .tflite that takes ids. It says the same, line by line, as
 * ../python/wordpiece.py and ../ios/WordPiece.swift.
 *
 * @param tokens the lines of vocab.txt, in order
 * @param lowerCase `do_lower_case` of tokenizer.json
 * @param longest `max_seq_length` of tokenizer.json: the longest row, in wordpieces
 */
class WordPiece(val tokens: List<String>, private val lowerCase: Boolean, val longest: Int = 128) {
    private val places = HashMap<String, Int>(2 * tokens.size).apply { tokens.forEachIndexed { i, t -> put(t, i) } }

    /** A row of the model: what its three inputs take. */
    class Row(val inputIds: IntArray, val inputMask: IntArray, val segmentIds: IntArray)

    /** The place of an entry in the vocabulary. */
    fun id(token: String): Int = requireNotNull(places[token]) { "the vocabulary must hold $token" }

    /** The ids of a text. The literal [MASK] in it is a mask; all else is text, [SEP] and [CLS] too. */
    fun ids(text: String): List<Int> {
        val found = ArrayList<Int>()
        text.split("[MASK]").forEachIndexed { i, part ->
            if (i > 0) found.add(id("[MASK]"))
            for (word in words(part)) found.addAll(pieces(word))
        }
        return found
    }

    /**
     * [CLS] first [SEP] second [SEP]; what does not fit is cut off the end of the longer one, and off the second when
     * they are equally long.
     */
    fun pack(first: List<Int>, second: List<Int> = emptyList()): Row {
        val room = longest - if (second.isEmpty()) 2 else 3
        var a = first.size
        var b = second.size
        while (a + b > room) if (b >= a) b-- else a--
        val left = listOf(id("[CLS]")) + first.subList(0, a) + id("[SEP]")
        val right = if (second.isEmpty()) emptyList() else second.subList(0, b) + id("[SEP]")
        val size = left.size + right.size
        return Row((left + right).toIntArray(), IntArray(size) { 1 }, IntArray(size) { if (it < left.size) 0 else 1 })
    }

    /** Words, punctuation marks and ideographs, each as its code points. */
    private fun words(text: String): List<IntArray> {
        val words = ArrayList<IntArray>()
        val word = ArrayList<Int>()
        fun end() {
            if (word.isNotEmpty()) words.add(word.toIntArray())
            word.clear()
        }
        for (c in text.codePoints().toArray()) {
            val kind = Character.getType(c).toByte()
            when {
                c == '\t'.code || c == '\n'.code || c == '\r'.code || kind in SPACES -> end()
                c == 0xFFFD || kind in DELETED -> continue
                IDEOGRAPHS.any { c in it } -> {
                    end()
                    words.add(normal(c))
                }
                else -> for (n in normal(c)) {
                    if (isPunctuation(n)) {
                        end()
                        words.add(intArrayOf(n))
                    } else {
                        word.add(n)
                    }
                }
            }
        }
        end()
        return words
    }

    /** One character in lower case and without accents, if the vocabulary is so. */
    private fun normal(c: Int): IntArray {
        if (!lowerCase) return intArrayOf(c)
        // Kotlin's lowercase() is that of no locale: a Turkish phone must not make another i of I.
        val decomposed = Normalizer.normalize(String(Character.toChars(c)).lowercase(), Normalizer.Form.NFD)
        return decomposed.codePoints().filter { Character.getType(it).toByte() != Character.NON_SPACING_MARK }.toArray()
    }

    /** The longest entries that spell a word, from the left; [UNK] if there are none. */
    private fun pieces(word: IntArray): List<Int> {
        val unknown = listOf(id("[UNK]"))
        if (word.size > MAX_CHARACTERS) return unknown
        val found = ArrayList<Int>()
        var start = 0
        while (start < word.size) {
            val mark = if (start > 0) "##" else ""
            val end = (word.size downTo start + 1).firstOrNull { places.containsKey(mark + String(word, start, it - start)) }
            if (end == null) return unknown
            found.add(id(mark + String(word, start, end - start)))
            start = end
        }
        return found
    }

    companion object {
        private const val MAX_CHARACTERS = 200 // a longer word is one [UNK]
        private val SPACES = setOf(Character.SPACE_SEPARATOR, Character.LINE_SEPARATOR, Character.PARAGRAPH_SEPARATOR)
        private val DELETED = setOf(Character.CONTROL, Character.FORMAT, Character.PRIVATE_USE)
        private val PUNCTUATION = setOf(
            Character.CONNECTOR_PUNCTUATION, Character.DASH_PUNCTUATION, Character.START_PUNCTUATION,
            Character.END_PUNCTUATION, Character.INITIAL_QUOTE_PUNCTUATION, Character.FINAL_QUOTE_PUNCTUATION,
            Character.OTHER_PUNCTUATION,
        )
        private val IDEOGRAPHS = listOf(
            0x4E00..0x9FFF, 0x3400..0x4DBF, 0x20000..0x2A6DF, 0x2A700..0x2B73F,
            0x2B740..0x2B81F, 0x2B820..0x2CEAF, 0xF900..0xFAFF, 0x2F800..0x2FA1F,
        )

        /** Of Unicode's punctuation, or a sign of ASCII that is neither letter nor digit, as $ and +. */
        private fun isPunctuation(c: Int) =
            (c in 0x21..0x7E && !Character.isLetterOrDigit(c)) || Character.getType(c).toByte() in PUNCTUATION

        /** The lines of a file; a line ends at \n and at nothing else, for other entries hold other separators. */
        private fun lines(stream: InputStream): List<String> {
            val lines = stream.use { it.readBytes() }.toString(Charsets.UTF_8).split("\n").map { it.removeSuffix("\r") }
            return if (lines.last().isEmpty()) lines.dropLast(1) else lines
        }

        /**
         * The tokenizer of the vocabulary that is associated with a .tflite, whose file is also a zip.
         *
         * @return it, and the labels; no labels if the model has none
         */
        fun read(path: String): Pair<WordPiece, List<String>> = ZipFile(path).use { zip ->
            fun of(name: String) = zip.getEntry(name)?.let { lines(zip.getInputStream(it)) }
            val about = requireNotNull(of("tokenizer.json")) { "$path must hold tokenizer.json" }.joinToString("\n")
            fun value(name: String) = Regex("\"$name\"\\s*:\\s*(\\w+)").find(about)?.groupValues?.get(1)
            val tokens = requireNotNull(of("vocab.txt")) { "$path must hold vocab.txt" }
            val longest = value("max_seq_length")?.toInt() ?: 128
            Pair(WordPiece(tokens, value("do_lower_case") == "true", longest), of("labels.txt").orEmpty())
        }
    }
}
