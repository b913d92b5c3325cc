// Loads a SavedModel with tensorflow::LoadSavedModel, the function that TensorFlow Serving itself calls (in
// session_bundle_util.cc), and answers requests with Session::Run. `export.cpp_loader` compiles and runs it.
//
//   load_saved_model FOLDER REQUESTS ANSWERS OP_LIBRARY...
//
// A file of requests or answers is a row of pieces, each a length (8 bytes, little-endian) and that many bytes. A request: the
// signature's name, the number of its inputs in decimals, and a NamedTensorProto for each. An answer: the number of outputs,
// and a NamedTensorProto for each. Status 2: an op library cannot be loaded, 3: the model cannot, 4: a request fails.

#include <cstdint>
#include <fstream>
#include <iostream>
#include <string>
#include <utility>
#include <vector>

#include "tensorflow/c/c_api.h"
#include "tensorflow/cc/saved_model/loader.h"
#include "tensorflow/core/framework/tensor.h"
#include "tensorflow/core/protobuf/named_tensor.pb.h"

namespace {

bool ReadPiece(std::istream& in, std::string* piece) {
  uint64_t length = 0;
  if (!in.read(reinterpret_cast<char*>(&length), sizeof(length))) return false;
  piece->resize(length);
  return static_cast<bool>(in.read(&(*piece)[0], length));
}

void WritePiece(std::ostream& out, const std::string& piece) {
  uint64_t length = piece.size();
  out.write(reinterpret_cast<const char*>(&length), sizeof(length));
  out.write(piece.data(), length);
}

int Fail(int code, const std::string& what, const std::string& status) {
  std::cerr << "error: " << what << ": " << status << std::endl;
  return code;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4) return Fail(1, "usage", "load_saved_model FOLDER REQUESTS ANSWERS OP_LIBRARY...");
  TF_Status* loaded = TF_NewStatus();
  for (int i = 4; i < argc; ++i) {
    TF_LoadLibrary(argv[i], loaded);
    if (TF_GetCode(loaded) != TF_OK) return Fail(2, argv[i], TF_Message(loaded));
  }
  tensorflow::SavedModelBundle bundle;
  const tensorflow::SessionOptions session_options;
  const tensorflow::RunOptions run_options;
  auto status = tensorflow::LoadSavedModel(session_options, run_options, argv[1], {"serve"}, &bundle);
  if (!status.ok()) return Fail(3, "LoadSavedModel", status.ToString());

  std::ifstream requests(argv[2], std::ios::binary);
  std::ofstream answers(argv[3], std::ios::binary);
  std::string signature, piece;
  while (ReadPiece(requests, &signature)) {
    const auto found = bundle.GetSignatures().find(signature);
    if (found == bundle.GetSignatures().end()) return Fail(4, "no such signature", signature);
    if (!ReadPiece(requests, &piece)) return Fail(1, "requests", "a request ends early");
    std::vector<std::pair<std::string, tensorflow::Tensor>> inputs(std::stoul(piece));
    for (auto& [name, tensor] : inputs) {
      tensorflow::NamedTensorProto named;
      if (!ReadPiece(requests, &piece) || !named.ParseFromString(piece) || !tensor.FromProto(named.tensor()))
        return Fail(1, "requests", "an input is not a NamedTensorProto");
      const auto input = found->second.inputs().find(named.name());
      if (input == found->second.inputs().end()) return Fail(4, "no such input", named.name());
      name = input->second.name();
    }
    std::vector<std::string> names, fetches;
    for (const auto& [name, info] : found->second.outputs()) {
      names.push_back(name);
      fetches.push_back(info.name());
    }
    std::vector<tensorflow::Tensor> outputs;
    status = bundle.session->Run(inputs, fetches, {}, &outputs);
    if (!status.ok()) return Fail(4, signature, status.ToString());
    WritePiece(answers, std::to_string(outputs.size()));
    for (size_t i = 0; i < outputs.size(); ++i) {
      tensorflow::NamedTensorProto named;
      named.set_name(names[i]);
      if (outputs[i].dtype() == tensorflow::DT_STRING) {  // their packed form is one that Python cannot read
        outputs[i].AsProtoField(named.mutable_tensor());
      } else {
        outputs[i].AsProtoTensorContent(named.mutable_tensor());
      }
      WritePiece(answers, named.SerializeAsString());
    }
  }
  return 0;
}
