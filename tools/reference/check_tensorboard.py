"""TensorBoard's own readers see what eyas wrote: the same numbers as metrics.jsonl, in the same order, and the completions.

    python3 tools/reference/check_tensorboard.py OUTPUT_DIR [LOGGING_DIR]

OUTPUT_DIR is a run with report_to = "tensorboard". Needs the package `tensorboard`, which setup.sh does not install.
"""

import json
import math
import pathlib
import sys

import numpy
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader


def tag(key):
    for prefix in ("eval_", "test_"):
        if key.startswith(prefix):
            return prefix[:-1] + "/" + key[len(prefix) :]
    return "train/" + key


def main():
    output_dir = pathlib.Path(sys.argv[1])
    logging_dir = pathlib.Path(sys.argv[2]) if len(sys.argv) > 2 else output_dir / "tensorboard"
    expected = {}
    for line in (output_dir / "metrics.jsonl").read_text().splitlines():
        line = json.loads(line)
        for key, value in line.items():
            if "step" in line and key != "step" and (value is None or isinstance(value, (int, float))):
                expected.setdefault(tag(key), []).append((line["step"], value))

    # This reader checks both checksums of every record.
    files = sorted(logging_dir.glob("events.out.tfevents.*"))
    records = sum(len(list(RawEventFileLoader(str(path)).Load())) for path in files)

    events = EventAccumulator(str(logging_dir), size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    found = events.Tags()["scalars"]
    assert sorted(found) == sorted(expected), (sorted(found), sorted(expected))
    for name, values in expected.items():
        scalars = events.Scalars(name)
        assert [scalar.step for scalar in scalars] == [step for step, _ in values], name
        for scalar, (step, value) in zip(scalars, values):
            if value is None:
                assert math.isnan(scalar.value), (name, step, scalar.value)
            else:
                assert numpy.float32(scalar.value) == numpy.float32(value), (name, step, scalar.value, value)
        times = [scalar.wall_time for scalar in scalars]
        assert times == sorted(times), f"{name}: times go back"

    texts = sum(len(events.Tensors(name)) for name in events.Tags()["tensors"])
    numbers = sum(map(len, expected.values()))
    print(f"{len(files)} file(s), {records} records: {len(expected)} scalars, {numbers} numbers, {texts} completions: as logged")


if __name__ == "__main__":
    main()
