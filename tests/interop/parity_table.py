"""Prints docs/parity.md up to its first `##`: errors against the authors' code.

  PYTHONPATH=.:tests/interop python tests/interop/parity_table.py

It takes about ten minutes, and runs the cases of test_golden.py, slow ones
included.
"""

import test_golden as golden

_HEAD = """# Parity with the authors' code

Largest relative error of each quantity recorded from the authors' own PyTorch
code (CPU), as `tests/interop/test_golden.py` measures it: the largest
difference over the array's largest entry; for gradients, over that plus a
hundredth of the network's largest gradient.

"Error" is that of our code in the precision of the recording: float64 for files
named `_f64`, where the tolerance is 1e-9, and float32 for the others.
"In float32" is that of our float32 code against a float64 recording. The
tolerance of float32 is 1e-4 where no gradient lies before a quantity, 1e-3 for
gradients and 1e-2 for what stands at the end of updates (`run/`, `final_`): an
activation that lies nearer to the kink of its ReLU than float32 can tell moves
a gradient by some 1e-4.

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
