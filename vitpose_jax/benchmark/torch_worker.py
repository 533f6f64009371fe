"""Hugging Face's VitPose in a process of its own: what `torch_side` starts. Imports no jax, and nothing of ours.

    python torch_worker.py FOLDER eager|compiled cpu|cuda

Reads one JSON command a line, answers each with one JSON line: {"prepare": {…}}, {"run": true}.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import transformers


class Worker:
    """A model, and what was prepared last.

    Args:
        folder: as `transformers` loads it.
        kind: "eager" or "compiled".
        device: "cpu" or "cuda": the kind that the other side computes on.

    Raises:
        RuntimeError: there is no such device.
    """

    def __init__(self, folder: str, kind: str, device: str):
        if device == "cuda" and not torch.cuda.is_available():
            raise RuntimeError(f"torch {torch.__version__} sees no GPU, and JAX does: install torch's CUDA build")
        self._folder, self._kind = folder, kind
        self._device = torch.device(device)
        self._run: Callable[[], Any] = lambda: None

    def prepare(self, *, task: str, dtype: str, inputs: str, outputs: str, learning_rate: float) -> dict[str, Any]:
        """Loads the weights and runs once, compiling where that is wanted.

        Args:
            task: "forward" or "train".
            dtype: of the computation.
            inputs: .npz with "image" [B, H, W, 3], normalised; for training also "target" and "weights".
            outputs: .npy to write: heatmaps [B, h, w, K], or the loss of the first step.
            learning_rate: of AdamW.

        Returns:
            Seconds of the first run, the threads that it ran on.
        """
        loaded: Any = transformers.VitPoseForPoseEstimation.from_pretrained(self._folder)
        model = loaded.to(self._device)
        given = {name: torch.from_numpy(array).to(self._device) for name, array in np.load(inputs).items()}
        images = given["image"].permute(0, 3, 1, 2).contiguous()
        run = getattr(self, f"_{task}")(model, given, images, getattr(torch, dtype), learning_rate)
        begin = time.perf_counter()
        result = run()
        seconds = time.perf_counter() - begin
        np.save(outputs, result.detach().float().cpu().numpy())
        self._run = run
        return {"compile_s": round(seconds, 2), "threads": torch.get_num_threads()}

    def run(self) -> dict[str, float]:
        """One run, timed."""
        wall, cpu = time.perf_counter(), time.process_time()
        self._run()
        if self._device.type == "cuda":
            torch.cuda.synchronize()
        return {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}

    def peak(self) -> dict[str, float]:
        """The most memory held so far: of the GPU, or of this process."""
        if self._device.type == "cuda":
            return {"peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 3)}
        return {"peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 3)}

    def _compiled(self, model: Any) -> Any:
        """For the shapes of this case alone: of a second batch size PyTorch would make one program for all."""
        if self._kind == "eager":
            return model
        torch.compiler.reset()
        return torch.compile(model, dynamic=False)

    def _forward(self, model: Any, given: dict, images: Any, dtype: Any, learning_rate: float) -> Callable[[], Any]:
        del given, learning_rate
        model = model.eval().to(dtype)
        images = images.to(dtype)
        called = self._compiled(model)

        def run() -> Any:
            with torch.inference_mode():
                return called(images).heatmaps.permute(0, 2, 3, 1)

        return run

    def _train(self, model: Any, given: dict, images: Any, dtype: Any, learning_rate: float) -> Callable[[], Any]:
        model = model.train()
        called = self._compiled(model)
        optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.1)
        target, weights = given["target"].permute(0, 3, 1, 2), given["weights"][:, :, None, None]

        def run() -> Any:
            with torch.autocast(self._device.type, dtype, enabled=dtype != torch.float32):
                heatmaps = called(images).heatmaps
            loss = (((heatmaps.float() - target) * weights) ** 2).mean()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            return loss

        return run


def main() -> None:
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever is printed is no answer
    worker = Worker(*sys.argv[1:])
    for line in sys.stdin:
        ((name, settings),) = json.loads(line).items()
        print(json.dumps(getattr(worker, name)(**settings)), file=answers, flush=True)


if __name__ == "__main__":
    main()
