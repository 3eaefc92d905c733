/* The functions of libnvinfer that TensorRT's Python bindings link to. Nothing works, everything can be looked at. */
void *createInferBuilder_INTERNAL(void *logger, int version) { (void)logger; (void)version; return 0; }
void *createInferRefitter_INTERNAL(void *engine, void *logger, int version) { (void)engine; (void)logger; (void)version; return 0; }
void *createInferRuntime_INTERNAL(void *logger, int version) { (void)logger; (void)version; return 0; }
void *getBuilderPluginRegistry(int capability) { (void)capability; return 0; }
void *getPluginRegistry(void) { return 0; }
