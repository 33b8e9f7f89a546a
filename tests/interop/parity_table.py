"""Prints docs/reference/parity.md up to its first `##`: errors of each port.

  PYTHONPATH=.:tests/interop python tests/interop/parity_table.py

It takes about ten minutes, and runs the cases of test_golden.py, slow ones
included.
"""

import test_golden as golden

_HEAD = """# Parity with the authors' code

Largest relative error of each quantity recorded from the authors' own PyTorch
code (CPU), as `tests/interop/test_golden.py` measures it: the largest
difference divided by the array's largest entry. For gradients, a hundredth of
the network's largest gradient is added to the divisor.

"Error" is the error in the precision of the recording: float64 for files named
`_f64`, with a tolerance of 1e-9, and float32 for the others. "In float32" is
the error of float32 code against a float64 recording. The float32 tolerance is
1e-4 for quantities that do not depend on gradients, 1e-3 for gradients and 1e-2
for results of updates (`run/`, `final_`). If an activation is nearer to the
kink of its ReLU than float32 resolves, a gradient changes by about 1e-4.

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
