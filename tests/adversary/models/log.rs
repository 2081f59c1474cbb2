//! Lines for the operator's eyes, and for the client's.

use super::{Build, Cage, Entry, Free, any};

pub(super) fn all() -> Vec<Entry> {
    let prints =
        |name, act, body, text| Entry::new(name, act, Build::Asked(body), Free::Prints(text), Cage::Answers(any));
    let raises = |name, act, body, text| {
        Entry::new(name, act, Build::Asked(body), Free::Says(text), Cage::Refuses(500, "model_error"))
    };
    vec![
        prints(
            "log-escapes",
            "clears the operator's screen and renames the window",
            "print(\"\\033[2J\\033]0;owned\\007 zoo-escape\")\n  return x",
            b"\x1b[2J",
        ),
        prints(
            "log-forged-line",
            "prints a line that looks like the server's own",
            "print(\"zoo\\n{\\\"level\\\":\\\"INFO\\\",\\\"message\\\":\\\"zoo-forged all models are well\\\"}\\n\")\n  return x",
            b"\n{\"level\"",
        ),
        prints(
            "log-not-text",
            "prints bytes that are no text",
            "print(\"\\377\\376\\000zoo\")\n  return x",
            b"\xff\xfe\0",
        ),
        prints(
            "log-long-line",
            "prints one line of 64 MiB",
            "s = \"====\"
  for i in range(24):
    s = s + s
  print(s)
  return x",
            b"================",
        ),
        raises(
            "log-header",
            "raises a text that would be a header",
            "ops.prim.RaiseException(\"no\\015\\nX-Zoo: forged\\015\\n\\015\\nzoo-body\", \"builtins.RuntimeError\")\n  return x",
            "X-Zoo: forged",
        ),
        raises(
            "log-long-error",
            "raises a text of 16 MiB",
            "s = \"!!!!\"
  for i in range(22):
    s = s + s
  ops.prim.RaiseException(s, \"builtins.RuntimeError\")
  return x",
            "!!!!!!!!",
        ),
    ]
}
