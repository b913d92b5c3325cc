// What an app's module adds for FillMask.kt.
android {
    defaultConfig { minSdk = 21 }
    androidResources { noCompress += "tflite" } // so that the asset can be mapped
}

dependencies {
    // Interpreter and its signatures, package org.tensorflow.lite. With TextModel: the AAR that has your own
    // libtensorflowlite_jni.so inside, implementation(files("libs/litert-with-text-ops.aar")), in place of this.
    implementation("com.google.ai.edge.litert:litert:1.4.2")
}
