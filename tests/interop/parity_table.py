"""Prints docs/reference/parity.md up to its first `##`.

  PYTHONPATH=.:tests/interop python tests/interop/parity_table.py

Some ten minutes; the same cases as test_golden.py, the slow ones too.
"""

import test_golden as golden

_HEAD = """# Parity with the authors' code

Each row is the largest relative error of a quantity recorded from the authors'
own PyTorch code (CPU), as measured by `tests/interop/test_golden.py`: the
largest difference over the array's largest entry. For gradients, the divisor is
that entry plus a hundredth of the network's largest gradient.

"error" is the error of our code in the precision of the recording: float64 for
files named `_f64`, where the tolerance is 1e-9, and float32 for the others. "in
float32" is the error of our float32 code against a float64 recording. In
float32, the tolerance is 1e-4 for quantities that no gradient precedes, 1e-3
for gradients, and 1e-2 for quantities at the end of updates (`run/`, `final_`).
An activation that is nearer to the kink of its ReLU than float32 can resolve
changes a gradient by about 1e-4.

| file | quantity | error | in float32 |
|---|---|---|---|"""


def main() -> None:
  print(_HEAD)
  for case in golden._CASES:
    path, quantity = case.values
    if golden.kind_of(path) not in golden._PORTS:
      continue
    recorded_in = golden.recorded_in(path)
    error = golden.error_of(path, quantity, recorded_in)
    once_more = ""
    if recorded_in == "float64":
      once_more = f"{golden.error_of(path, quantity, 'float32'):.1e}"
    print(
      f"| {path.stem} | `{quantity}` | {error:.1e} | {once_more} |",
      flush=True,
    )


if __name__ == "__main__":
  main()
