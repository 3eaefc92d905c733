/* The functions of libnvonnxparser that TensorRT's Python bindings link to. */
void *createNvOnnxParser_INTERNAL(void *network, void *logger, int version) { (void)network; (void)logger; (void)version; return 0; }
void *createNvOnnxParserRefitter_INTERNAL(void *refitter, void *logger, int version) { (void)refitter; (void)logger; (void)version; return 0; }
int getNvOnnxParserVersion(void) { return 0; }
