import Foundation
import TensorFlowLite

/// A word for a mask, or a label of a text, and how likely it is.
struct Answer {
  let text: String
  let probability: Float
}

/// A .tflite that takes ids (`python -m export.tflite --inputs=ids`): it needs no op but LiteRT's own, and its vocabulary is
/// in the file.
final class IdsModel {
  private let runner: SignatureRunner
  private let tokenizer: WordPiece
  private let labels: [String]

  init(path: String, threads: Int = 2) throws {
    (tokenizer, labels) = try AssociatedFiles(path: path).tokenizer()
    var options = Interpreter.Options()
    options.threadCount = threads
    runner = try Interpreter(modelPath: path, options: options).signatureRunner(with: "from_ids")
  }

  /// The likeliest words for each [MASK] of a text, of a pre-trained model.
  func fillMask(_ text: String) throws -> [[Answer]] {
    let row = tokenizer.pack(tokenizer.ids(text))
    try run(row)
    let ids = try runner.output(named: "ids")
    let places: [Int32] = numbers(ids.data)
    let probabilities: [Float] = numbers(try runner.output(named: "probabilities").data)
    let (masks, k) = (ids.shape.dimensions[1], ids.shape.dimensions[2])
    let mask = Int32(tokenizer.id("[MASK]"))
    let answered = min(masks, row.inputIds.filter { $0 == mask }.count)
    return (0..<answered).map { m in
      (0..<k).map { Answer(text: tokenizer.tokens[Int(places[m * k + $0])], probability: probabilities[m * k + $0]) }
    }
  }

  /// The labels of a text or a pair, likeliest first, of a model that was fine-tuned to classify.
  func classify(_ text: String, pair: String? = nil) throws -> [Answer] {
    try run(tokenizer.pack(tokenizer.ids(text), pair.map(tokenizer.ids) ?? []))
    let logits: [Float] = numbers(try runner.output(named: "logits").data)
    let largest = logits.max() ?? 0
    let weights = logits.map { exp($0 - largest) }
    let total = weights.reduce(0, +)
    let answers = zip(labels, weights).map { Answer(text: $0, probability: $1 / total) }
    return answers.sorted { $0.probability > $1.probability }
  }

  private func run(_ row: WordPiece.Row) throws {
    let inputs = ["input_ids": row.inputIds, "input_mask": row.inputMask, "segment_ids": row.segmentIds]
    for (name, values) in inputs { try runner.resizeInput(named: name, toShape: [1, values.count]) }
    try runner.invoke(with: inputs.mapValues { values in values.withUnsafeBufferPointer { Data(buffer: $0) } })
  }

  /// The numbers of a tensor.
  private func numbers<Number>(_ data: Data) -> [Number] {
    data.withUnsafeBytes { Array($0.bindMemory(to: Number.self)) }
  }
}
