"""One engine in a process of its own: sleeps in a read until it is asked, answers as `forward_times run` does."""

import json
import sys
import time

import numpy as np
from safetensors.numpy import load_file, save_file

from networks import values


class OpenVino:
    """The CPU plugin, one stream; the model is compiled for each batch size, which is where it is fastest."""

    def __init__(self, path, dtype, threads):
        import openvino

        self.version = openvino.__version__.split("-")[0]
        self.core, self.path = openvino.Core(), path
        self.config = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": dtype,
            "INFERENCE_NUM_THREADS": threads,
        }

    def prepare(self, count):
        self.request = None
        model = self.core.read_model(self.path)
        shape = model.input().partial_shape
        shape[0] = count
        model.reshape(shape)
        self.request = self.core.compile_model(model, "CPU", self.config).create_infer_request()

    def forward(self, images):
        results = self.request.infer([images], share_inputs=True, share_outputs=True)
        return [results[at] for at in range(len(results))]


class OnnxRuntime:
    """The CPU provider; its threads sleep between two passes, which they do not by default."""

    def __init__(self, path, dtype, threads):
        import onnxruntime

        assert dtype == "f32"
        self.runtime, self.path, self.threads = onnxruntime, path, threads
        self.version = onnxruntime.__version__

    def prepare(self, count):
        self.session = None
        options = self.runtime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self.threads, 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_free_dimension_override_by_name("batch", count)
        self.session = self.runtime.InferenceSession(self.path, options, providers=["CPUExecutionProvider"])

    def forward(self, images):
        return self.session.run(None, {"input": images})


class OpenCv:
    """OpenCV's network module, which its FaceDetectorYN runs on; without that one's decoding of the heads."""

    def __init__(self, path, dtype, threads):
        import cv2
        import onnx

        assert dtype == "f32"
        cv2.setNumThreads(threads)
        self.cv2, self.path, self.version = cv2, path, cv2.__version__
        # Its own list of outputs is in another order.
        self.outputs = [output.name for output in onnx.load(path).graph.output]

    def prepare(self, count):
        self.network = self.cv2.dnn.readNetFromONNX(self.path)

    def forward(self, images):
        self.network.setInput(images)
        return self.network.forward(self.outputs)


ENGINES = {"openvino": OpenVino, "onnxruntime": OnnxRuntime, "opencv": OpenCv}


def main():
    name, network, path, dtype, threads = sys.argv[1:]
    engine = ENGINES[name](path, dtype, int(threads))
    say({"version": engine.version})
    prepared, given = None, None
    for line in sys.stdin:
        request = line.split()
        if request[0] == "input":
            given = load_file(request[1])["input"]
            say("ok")
            continue
        count = int(request[1])
        images = np.ascontiguousarray(given[:count])
        if prepared != count:
            engine.prepare(count)
            prepared = count
        if request[0] == "batch":
            times = []
            for _ in range(int(request[3])):
                start = time.perf_counter()
                engine.forward(images)
                times.append((time.perf_counter() - start) * 1e3)
            say(times)
        else:
            output = np.ascontiguousarray(values(network, engine.forward(images)), np.float32)
            save_file({"output": output}, request[2])
            say("ok")


def say(answer):
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
