import Foundation
import TensorFlowLiteC

/// A .tflite that takes strings: its tokenizer is two ops of tensorflow-text. TensorFlowLiteSwift's Interpreter takes no ops
/// from outside, so this speaks C, to a TensorFlowLiteC.framework that was built with ../native/text_ops.cc (README.md).
final class TextModel {
  enum Failure: Error { case model, interpreter, signature, run }

  private let model: OpaquePointer
  private let interpreter: OpaquePointer
  private let runner: OpaquePointer

  init(path: String, threads: Int32 = 2) throws {
    guard let model = TfLiteModelCreateFromFile(path) else { throw Failure.model }
    let options = TfLiteInterpreterOptionsCreate()
    defer { TfLiteInterpreterOptionsDelete(options) }
    TfLiteInterpreterOptionsSetNumThreads(options, threads)
    TfLiteTextOpsAdd(options)  // the registration: without it the interpreter says "unresolved custom op"
    guard let interpreter = TfLiteInterpreterCreate(model, options) else { throw Failure.interpreter }
    guard let runner = TfLiteInterpreterGetSignatureRunner(interpreter, "serving_default") else { throw Failure.signature }
    (self.model, self.interpreter, self.runner) = (model, interpreter, runner)
  }

  deinit {
    TfLiteSignatureRunnerDelete(runner)
    TfLiteInterpreterDelete(interpreter)
    TfLiteModelDelete(model)
  }

  /// The likeliest words for each [MASK] of a text.
  func fillMask(_ text: String) throws -> [[Answer]] {
    guard TfLiteSignatureRunnerResizeInputTensor(runner, "text", [1], 1) == kTfLiteOk,
      TfLiteSignatureRunnerAllocateTensors(runner) == kTfLiteOk,
      let input = TfLiteSignatureRunnerGetInputTensor(runner, "text")
    else { throw Failure.run }
    text.withCString { TfLiteTextOpsSetStrings(input, [$0], 1) }
    guard TfLiteSignatureRunnerInvoke(runner) == kTfLiteOk,
      let tokens = TfLiteSignatureRunnerGetOutputTensor(runner, "tokens"),
      let probabilities = TfLiteSignatureRunnerGetOutputTensor(runner, "probabilities"),
      let positions = TfLiteSignatureRunnerGetOutputTensor(runner, "positions")
    else { throw Failure.run }
    let (masks, k) = (Int(TfLiteTensorDim(tokens, 1)), Int(TfLiteTensorDim(tokens, 2)))
    let words = strings(tokens)
    let scores = TfLiteTensorData(probabilities)!.assumingMemoryBound(to: Float.self)
    let places = TfLiteTensorData(positions)!.assumingMemoryBound(to: Int32.self)
    // Of a text without a mask there is one, at -1.
    return (0..<masks).filter { places[$0] >= 0 }.map { m in
      (0..<k).map { Answer(text: words[m * k + $0], probability: scores[m * k + $0]) }
    }
  }

  /// The strings of a tensor: their count n, n + 1 places of bytes, then the bytes.
  private func strings(_ tensor: UnsafePointer<TfLiteTensor>) -> [String] {
    let bytes = UnsafeRawBufferPointer(start: TfLiteTensorData(tensor), count: TfLiteTensorByteSize(tensor))
    let place = { (i: Int) in Int(bytes.loadUnaligned(fromByteOffset: 4 * i, as: Int32.self)) }
    return (0..<place(0)).map { i in String(decoding: bytes[place(i + 1)..<place(i + 2)], as: UTF8.self) }
  }
}
