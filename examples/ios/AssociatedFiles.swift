import Foundation

/// The files that are associated with a .tflite, whose file is also a zip: Foundation has no reader of zips.
struct AssociatedFiles {
  enum Failure: Error { case noZip, noFile(String), unknownCompression(String) }

  private let data: Data
  private var entries: [String: (method: Int, size: Int, place: Int)] = [:]

  init(path: String) throws {
    data = try Data(contentsOf: URL(fileURLWithPath: path), options: .alwaysMapped)
    // The end of the directory of a zip: 22 bytes and a comment, behind all else.
    var end = data.count - 22
    while end >= 0, number(end, 4) != 0x0605_4b50 { end -= 1 }
    guard end >= 0 else { throw Failure.noZip }
    // Places count from where the zip begins, which is not where the file begins if the two were joined afterwards.
    var at = end - number(end + 12, 4)
    let begin = at - number(end + 16, 4)
    for _ in 0..<number(end + 10, 2) {
      let lengths = [28, 30, 32].map { number(at + $0, 2) }  // of name, extra field, comment
      let name = String(decoding: data[(at + 46)..<(at + 46 + lengths[0])], as: UTF8.self)
      entries[name] = (number(at + 10, 2), number(at + 20, 4), begin + number(at + 42, 4))
      at += 46 + lengths.reduce(0, +)
    }
  }

  /// The bytes of a file; nil if there is none of that name.
  func bytes(_ name: String) throws -> Data? {
    guard let entry = entries[name] else { return nil }
    let begin = entry.place + 30 + number(entry.place + 26, 2) + number(entry.place + 28, 2)
    let stored = data.subdata(in: begin..<(begin + entry.size))
    switch entry.method {
    case 0: return stored
    case 8: return try (stored as NSData).decompressed(using: .zlib) as Data
    default: throw Failure.unknownCompression(name)
    }
  }

  /// The lines of a file; a line ends at \n and at nothing else, for other entries hold other separators.
  func lines(_ name: String) throws -> [String] {
    guard let bytes = try bytes(name) else { throw Failure.noFile(name) }
    var lines = bytes.split(separator: 0x0A, omittingEmptySubsequences: false).map { line in
      String(decoding: line.last == 0x0D ? line.dropLast() : line, as: UTF8.self)
    }
    if lines.last == "" { lines.removeLast() }
    return lines
  }

  /// The tokenizer of the vocabulary, and the labels; no labels if the model has none.
  func tokenizer() throws -> (WordPiece, [String]) {
    guard let about = try bytes("tokenizer.json") else { throw Failure.noFile("tokenizer.json") }
    let values = try JSONSerialization.jsonObject(with: about) as? [String: Any] ?? [:]
    let wordPiece = WordPiece(
      tokens: try lines("vocab.txt"),
      lowerCase: values["do_lower_case"] as? Bool ?? true,
      longest: values["max_seq_length"] as? Int ?? 128)
    return (wordPiece, entries["labels.txt"] == nil ? [] : try lines("labels.txt"))
  }

  /// A number of so many bytes, the least significant one first.
  private func number(_ at: Int, _ size: Int) -> Int {
    (0..<size).reduce(0) { $0 | Int(data[data.startIndex + at + $1]) << (8 * $1) }
  }
}
