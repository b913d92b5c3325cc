#include "text_ops.h"

#include <cstring>

#include "tensorflow/lite/core/c/c_api_experimental.h"
#include "tensorflow/lite/mutable_op_resolver.h"
#include "tensorflow/lite/string_util.h"
#include "tensorflow_text/core/kernels/fast_bert_normalizer_tflite.h"
#include "tensorflow_text/core/kernels/fast_wordpiece_tokenizer_tflite.h"

namespace {

// As `python -m export.inspect --tflite=model.tflite` lists them.
constexpr const char* kOps[] = {"FastBertNormalize", "FastWordpieceTokenizeWithOffsets"};

// The interpreter keeps pointers to what is registered, so this lives as long as the program.
const tflite::MutableOpResolver& Ops() {
  static const tflite::MutableOpResolver* const ops = [] {
    auto* resolver = new tflite::MutableOpResolver;
    tflite::ops::custom::text::AddFastBertNormalize(resolver);
    tflite::ops::custom::text::AddFastWordpieceTokenize(resolver);
    return resolver;
  }();
  return *ops;
}

}  // namespace

void TfLiteTextOpsAdd(TfLiteInterpreterOptions* options) {
  for (const char* name : kOps) {
    TfLiteInterpreterOptionsAddCustomOp(options, name, Ops().FindOp(name, /*version=*/1), /*min_version=*/1,
                                        /*max_version=*/1);
  }
}

void TfLiteTextOpsSetStrings(TfLiteTensor* tensor, const char* const* strings, int32_t count) {
  tflite::DynamicBuffer buffer;
  for (int32_t i = 0; i < count; ++i) buffer.AddString(strings[i], std::strlen(strings[i]));
  buffer.WriteToTensorAsVector(tensor);
}
