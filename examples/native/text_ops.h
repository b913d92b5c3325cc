// What a TensorFlow Lite runtime lacks for a .tflite of tfbert that takes strings, with C's linkage, for Swift and JNI.
#ifndef TFBERT_EXAMPLES_TEXT_OPS_H_
#define TFBERT_EXAMPLES_TEXT_OPS_H_

#include <stdint.h>

#include "tensorflow/lite/core/c/c_api.h"

#ifdef __cplusplus
extern "C" {
#endif

// The names begin with TfLite because TensorFlowLiteC.framework shows no other names (ios/allowlist_TensorFlowLiteC.txt).

// Registers tensorflow-text's two ops with the options of an interpreter, before it is made.
void TfLiteTextOpsAdd(TfLiteInterpreterOptions* options);

// Writes strings into an input tensor, which becomes as long as they are many. The strings are UTF-8 and end with NUL.
void TfLiteTextOpsSetStrings(TfLiteTensor* tensor, const char* const* strings, int32_t count);

#ifdef __cplusplus
}
#endif

#endif  // TFBERT_EXAMPLES_TEXT_OPS_H_
