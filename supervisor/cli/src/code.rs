//! What a model's code says, as text: the signature of `forward`, and operators that a reader should know of.
//!
//! Nothing is parsed: a model that hides what it does from this search is still held by the cage.

use serde::Serialize;

use crate::archive::{Archive, Code};

/// Most findings that are kept; a model with more is remarkable enough.
const MAX_FINDINGS: usize = 1000;
/// Longest signature, in characters.
const MAX_SIGNATURE: usize = 4096;

/// The signature of `forward`, as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Forward {
    /// Where it stands.
    pub(crate) record: String,
    /// `forward(x: Tensor) -> Tensor`.
    pub(crate) signature: String,
    /// Names of its arguments, without `self`.
    pub(crate) arguments: Vec<String>,
}

/// A line that a reader should know of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// Where it stands.
    pub(crate) record: String,
    /// The line's number, from 1.
    pub(crate) line: usize,
    /// The operator.
    pub(crate) operator: &'static str,
    /// What it could do outside a cage.
    pub(crate) why: &'static str,
    /// The line itself.
    pub(crate) text: String,
}

struct Operator {
    word: &'static str,
    /// Whether it is one only as a call or a definition; `save` is a fine name for a tensor.
    called: bool,
    why: &'static str,
}

const OPERATORS: &[Operator] = &[
    Operator { word: "save", called: true, why: "writes a file, wherever the process may" },
    Operator { word: "load", called: true, why: "reads a file" },
    Operator { word: "from_file", called: true, why: "maps a file into a tensor: reads it, and can write it" },
    Operator { word: "__setstate__", called: true, why: "runs while the model is loaded, before any request" },
    Operator { word: "torch.classes", called: false, why: "a class written in C++, from a library" },
    Operator { word: "ops", called: false, why: "an operator by its namespace, possibly from a library" },
    Operator { word: "rpc_sync", called: true, why: "calls another machine" },
    Operator { word: "rpc_async", called: true, why: "calls another machine" },
    Operator { word: "rpc_remote", called: true, why: "calls another machine" },
    Operator { word: "prim.rpc", called: false, why: "calls another machine" },
    Operator { word: "fork", called: true, why: "runs code on another thread" },
    Operator { word: "print", called: true, why: "prints to the worker's log" },
    Operator { word: "while", called: false, why: "a loop, which may not end" },
];

/// The signature of the top module's `forward`, or of the first that there is.
pub(crate) fn forward(archive: &Archive) -> Option<Forward> {
    let top = archive.class.as_ref().and_then(|(module, class)| {
        let record = format!("{}/code/{}.py", archive.root, module.replace('.', "/"));
        let code = archive.code.iter().find(|code| code.record == record)?;
        let start = code.text.find(&format!("class {class}("))?;
        signature(code, code.text.get(start..)?)
    });
    top.or_else(|| archive.code.iter().find_map(|code| signature(code, &code.text)))
}

/// Every line with an operator of the list.
pub(crate) fn findings(archive: &Archive) -> Vec<Finding> {
    let lines = archive.code.iter().flat_map(|code| code.text.lines().enumerate().map(move |line| (code, line)));
    let found = lines.flat_map(|(code, (index, text))| {
        OPERATORS.iter().filter(|operator| operator.is_in(text)).map(move |operator| Finding {
            record: code.record.clone(),
            line: index + 1,
            operator: operator.word,
            why: operator.why,
            text: text.trim().chars().take(200).collect(),
        })
    });
    found.take(MAX_FINDINGS).collect()
}

// === impl Operator ===

impl Operator {
    fn is_in(&self, line: &str) -> bool {
        let part = |c: char| c.is_alphanumeric() || c == '_';
        line.match_indices(self.word).any(|(at, word)| {
            let before = line[..at].chars().next_back();
            let after = line[at + word.len()..].chars().next();
            let whole = !before.is_some_and(part) && !after.is_some_and(part);
            // `ops` is a namespace: `ops.image.decode`, and not the `ops` of `x.ops`.
            let namespace = self.word != "ops" || (after == Some('.') && before != Some('.'));
            whole && namespace && (!self.called || after == Some('('))
        })
    }
}

fn signature(code: &Code, text: &str) -> Option<Forward> {
    let text = &text[text.find("def forward(")? + "def ".len()..];
    let mut depth = 0usize;
    // The colon that ends a signature is the first one outside of every bracket.
    let end = text.char_indices().take(MAX_SIGNATURE).find_map(|(at, c)| {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            ':' if depth == 0 => return Some(at),
            _ => {}
        }
        None
    })?;
    let written = text[..end].split_whitespace().collect::<Vec<_>>().join(" ");
    let (head, result) = written.split_once(" -> ").map_or((written.as_str(), None), |(h, r)| (h, Some(r)));
    let list = head.strip_prefix("forward(")?.strip_suffix(')')?;
    let arguments: Vec<&str> = split_top(list).into_iter().filter(|a| !a.starts_with("self")).collect();
    let result = result.map(|r| format!(" -> {r}")).unwrap_or_default();
    Some(Forward {
        record: code.record.clone(),
        signature: format!("forward({}){result}", arguments.join(", ")),
        arguments: arguments.iter().map(|a| a.split(':').next().unwrap_or(a).trim().to_owned()).collect(),
    })
}

/// Splits at the commas outside of every bracket.
fn split_top(list: &str) -> Vec<&str> {
    let mut depth = 0usize;
    let parts = list.split(|c: char| {
        match c {
            '(' | '[' => depth += 1,
            ')' | ']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    });
    parts.map(str::trim).filter(|part| !part.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::tests::{MODEL, zipped};

    fn code(text: &str) -> Archive {
        let code = vec![Code { record: "m/code/a.py".to_owned(), text: text.to_owned() }];
        Archive { root: "m".to_owned(), records: vec![], code, class: None, made: vec![] }
    }

    #[test]
    fn forward_is_read_as_written() {
        let seen = forward(&Archive::read(zipped(MODEL)).unwrap()).unwrap();
        assert_eq!(seen.signature, "forward(x: Tensor) -> Tensor");
        let text = "class A(Module):\n  def forward(self: A, a: Dict[str, Tensor],\n    b: Optional[int]=None) -> Tuple[Tensor, int]:\n    pass";
        let seen = forward(&code(text)).unwrap();
        assert_eq!(seen.signature, "forward(a: Dict[str, Tensor], b: Optional[int]=None) -> Tuple[Tensor, int]");
        assert_eq!(seen.arguments, ["a", "b"]);
        for broken in ["", "def forward(", "def forward(self", "def forward(self) -> Tensor", "def forward)("] {
            assert_eq!(forward(&code(broken)), None, "{broken:?}");
        }
    }

    #[test]
    fn the_top_modules_forward_comes_first() {
        let mut archive = code(
            "class B(Module):\n  def forward(self, b: int):\n    pass\nclass A(Module):\n  def forward(self, a: int):\n    pass\n",
        );
        archive.class = Some(("a".to_owned(), "A".to_owned()));
        assert_eq!(forward(&archive).unwrap().arguments, ["a"]);
    }

    #[test]
    fn operators_are_found_where_they_are_and_only_there() {
        let risky = [
            ("torch.save(x, \"/etc/passwd\")", "save"),
            ("x = torch.from_file(\"/dev/mem\", False, 9)", "from_file"),
            ("  def __setstate__(self: A,", "__setstate__"),
            ("a : __torch__.torch.classes.quantized.Linear", "torch.classes"),
            ("_0 = ops.image.read_file(\"x\")", "ops"),
            ("while True:", "while"),
        ];
        for (line, operator) in risky {
            let found = findings(&code(&format!("import torch\n{line}")));
            assert_eq!(found.iter().map(|f| (f.operator, f.line)).collect::<Vec<_>>(), [(operator, 2)], "{line}");
        }
        for line in ["save = x", "y = saved(x)", "my_save(x)", "z = x.ops", "props.a", "meanwhile = 1", "printer(x)"] {
            assert_eq!(findings(&code(line)), [], "{line}");
        }
    }
}
