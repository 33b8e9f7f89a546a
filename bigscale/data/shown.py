"""Names of files and classes as they are printed.

A name may hold whatever a disk can: line breaks, the codes that move a
terminal's cursor, marks that turn the direction of writing, bytes that are no
Unicode (as `os.fsdecode` reads them). Inside of the program, in JSON and in
sets, names stay what they are; in sentences those characters are escaped.
"""


def shown(text: str) -> str:
  r"""Returns a text on one line with what does not print as \x1b, \udce9."""
  if text.isprintable():
    return text
  return "".join(
    letter
    if letter.isprintable()
    else letter.encode("ascii", "backslashreplace").decode()
    if letter > "\x7f"
    else f"\\x{ord(letter):02x}"
    for letter in text
  )


def shown_lines(text: str) -> str:
  """Returns `shown` of every line: line breaks stay."""
  return "\n".join(shown(line) for line in text.split("\n"))
