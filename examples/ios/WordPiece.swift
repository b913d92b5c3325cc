import Foundation

/// BERT's WordPiece tokenization, for a .tflite that takes ids. It says the same, line by line, as
/// ../python/wordpiece.py and ../android/WordPiece.kt.
struct WordPiece {
  let tokens: [String]
  let lowerCase: Bool
  let longest: Int
  private let places: [String: Int]

  /// A row of the model: what its three inputs take.
  struct Row {
    let inputIds: [Int32]
    let inputMask: [Int32]
    let segmentIds: [Int32]
  }

  /// - Parameters:
  ///   - tokens: The lines of vocab.txt, in order.
  ///   - lowerCase: `do_lower_case` of tokenizer.json.
  ///   - longest: `max_seq_length` of tokenizer.json: the longest row, in wordpieces.
  init(tokens: [String], lowerCase: Bool, longest: Int = 128) {
    self.tokens = tokens
    self.lowerCase = lowerCase
    self.longest = longest
    // By their UTF-8: Swift holds "é" and "e" with an accent for the same string, and a vocabulary has both.
    places = Dictionary(
      tokens.enumerated().map { (WordPiece.key($0.element), $0.offset) }, uniquingKeysWith: { first, _ in first })
  }

  /// The place of an entry in the vocabulary.
  func id(_ token: String) -> Int {
    guard let place = places[WordPiece.key(token)] else { preconditionFailure("the vocabulary must hold \(token)") }
    return place
  }

  /// The ids of a text. The literal [MASK] in it is a mask; all else is text, [SEP] and [CLS] too.
  func ids(_ text: String) -> [Int] {
    var found: [Int] = []
    for (i, part) in WordPiece.split(text, at: "[MASK]").enumerated() {
      if i > 0 { found.append(id("[MASK]")) }
      for word in words(part) { found += pieces(word) }
    }
    return found
  }

  /// [CLS] first [SEP] second [SEP]; what does not fit is cut off the end of the longer one, and off the second when they
  /// are equally long.
  func pack(_ first: [Int], _ second: [Int] = []) -> Row {
    let room = longest - (second.isEmpty ? 2 : 3)
    var (a, b) = (first.count, second.count)
    while a + b > room { if b >= a { b -= 1 } else { a -= 1 } }
    let left = [id("[CLS]")] + first.prefix(a) + [id("[SEP]")]
    let right: [Int] = second.isEmpty ? [] : Array(second.prefix(b)) + [id("[SEP]")]
    return Row(
      inputIds: (left + right).map(Int32.init),
      inputMask: Array(repeating: 1, count: left.count + right.count),
      segmentIds: Array(repeating: 0, count: left.count) + Array(repeating: 1, count: right.count))
  }

  /// Words, punctuation marks and ideographs, each as its code points.
  private func words(_ text: Substring.UnicodeScalarView) -> [[Unicode.Scalar]] {
    var words: [[Unicode.Scalar]] = []
    var word: [Unicode.Scalar] = []
    func end() {
      if !word.isEmpty { words.append(word) }
      word = []
    }
    for c in text {
      let kind = c.properties.generalCategory
      if c == "\t" || c == "\n" || c == "\r" || WordPiece.spaces.contains(kind) {
        end()
      } else if c == "\u{FFFD}" || WordPiece.deleted.contains(kind) {
        continue
      } else if WordPiece.ideographs.contains(where: { $0.contains(c.value) }) {
        end()
        words.append(normal(c))
      } else {
        for n in normal(c) {
          if WordPiece.isPunctuation(n) {
            end()
            words.append([n])
          } else {
            word.append(n)
          }
        }
      }
    }
    end()
    return words
  }

  /// One character in lower case and without accents, if the vocabulary is so.
  private func normal(_ c: Unicode.Scalar) -> [Unicode.Scalar] {
    if !lowerCase { return [c] }
    // The mapping of a code point is that of no language: a Turkish phone must not make another i of I.
    let decomposed = c.properties.lowercaseMapping.decomposedStringWithCanonicalMapping
    return decomposed.unicodeScalars.filter { $0.properties.generalCategory != .nonspacingMark }
  }

  /// The longest entries that spell a word, from the left; [UNK] if there are none.
  private func pieces(_ word: [Unicode.Scalar]) -> [Int] {
    if word.count > WordPiece.maxCharacters { return [id("[UNK]")] }
    var found: [Int] = []
    var start = 0
    while start < word.count {
      let mark = start > 0 ? "##" : ""
      var place: Int?
      var end = word.count
      while end > start {
        place = places[WordPiece.key(mark, word[start..<end])]
        if place != nil { break }
        end -= 1
      }
      guard let piece = place else { return [id("[UNK]")] }
      found.append(piece)
      start = end
    }
    return found
  }

  private static let maxCharacters = 200  // a longer word is one [UNK]
  private static let spaces: Set<Unicode.GeneralCategory> = [.spaceSeparator, .lineSeparator, .paragraphSeparator]
  private static let deleted: Set<Unicode.GeneralCategory> = [.control, .format, .privateUse]
  private static let punctuation: Set<Unicode.GeneralCategory> = [
    .connectorPunctuation, .dashPunctuation, .openPunctuation, .closePunctuation,
    .initialPunctuation, .finalPunctuation, .otherPunctuation,
  ]
  private static let ideographs: [ClosedRange<UInt32>] = [
    0x4E00...0x9FFF, 0x3400...0x4DBF, 0x20000...0x2A6DF, 0x2A700...0x2B73F,
    0x2B740...0x2B81F, 0x2B820...0x2CEAF, 0xF900...0xFAFF, 0x2F800...0x2FA1F,
  ]

  /// Of Unicode's punctuation, or a sign of ASCII that is neither letter nor digit, as $ and +.
  private static func isPunctuation(_ c: Unicode.Scalar) -> Bool {
    switch c.value {
    case 0x21...0x2F, 0x3A...0x40, 0x5B...0x60, 0x7B...0x7E: return true
    default: return punctuation.contains(c.properties.generalCategory)
    }
  }

  /// What tells strings apart by their code points: a string of one letter for each byte of UTF-8.
  private static func key(_ text: String) -> String {
    String(String.UnicodeScalarView(text.utf8.map { Unicode.Scalar(0x100 + UInt32($0))! }))
  }

  private static func key(_ mark: String, _ scalars: ArraySlice<Unicode.Scalar>) -> String {
    key(mark + String(String.UnicodeScalarView(scalars)))
  }

  /// The parts of a text between literals, by code points: Swift's own search would not find "[MASK]" before an accent.
  private static func split(_ text: String, at literal: String) -> [Substring.UnicodeScalarView] {
    let (scalars, wanted) = (text.unicodeScalars, Array(literal.unicodeScalars))
    var parts: [Substring.UnicodeScalarView] = []
    var (begin, at) = (scalars.startIndex, scalars.startIndex)
    while at < scalars.endIndex {
      if scalars[at...].starts(with: wanted) {
        parts.append(scalars[begin..<at])
        at = scalars.index(at, offsetBy: wanted.count)
        begin = at
      } else {
        at = scalars.index(after: at)
      }
    }
    return parts + [scalars[begin...]]
  }
}
