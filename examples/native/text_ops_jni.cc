// The ops of LiteRT's Java and Kotlin Interpreter: all built in ones, and tensorflow-text's two. The interpreter takes
// them from this function, which its own library defines in builtin_ops_jni.cc; in Java there is no way to add one.

#include <memory>

#include "tensorflow/lite/core/api/op_resolver.h"
#include "tensorflow/lite/kernels/register.h"
#include "tensorflow_text/core/kernels/fast_bert_normalizer_tflite.h"
#include "tensorflow_text/core/kernels/fast_wordpiece_tokenizer_tflite.h"

namespace tflite {

std::unique_ptr<OpResolver> CreateOpResolver() {
  auto resolver = std::make_unique<ops::builtin::BuiltinOpResolverWithoutDefaultDelegates>();
  ops::custom::text::AddFastBertNormalize(resolver.get());
  ops::custom::text::AddFastWordpieceTokenize(resolver.get());
  return resolver;
}

}  // namespace tflite
