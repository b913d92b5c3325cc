// Tokenizes each line of standard input, a text in base64, with examples/android/WordPiece.kt: ids with spaces between.
// The argument is a .tflite, or any zip with vocab.txt and tokenizer.json in it.
fun main(arguments: Array<String>) {
    val (tokenizer, _) = tfbert.WordPiece.read(arguments[0])
    val out = StringBuilder()
    for (line in generateSequence(::readlnOrNull)) {
        val text = String(java.util.Base64.getDecoder().decode(line), Charsets.UTF_8)
        out.append(tokenizer.ids(text).joinToString(" ")).append('\n')
    }
    print(out)
}
