//! Structure only: that libtorch loads what the forge writes is shown by the tests that serve it.

use std::io::Read as _;

use super::*;

fn records(bytes: Vec<u8>) -> Vec<(String, Vec<u8>)> {
    let mut archive = zip::ZipArchive::new(Cursor::new(bytes)).unwrap();
    (0..archive.len())
        .map(|index| {
            let mut file = archive.by_index(index).unwrap();
            let name = file.name().unwrap().into_owned();
            assert_eq!(file.compression(), CompressionMethod::Stored, "{name}");
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).unwrap();
            (name, bytes)
        })
        .collect()
}

fn record(bytes: Vec<u8>, name: &str) -> Vec<u8> {
    records(bytes).into_iter().find(|(found, _)| found == name).unwrap().1
}

#[test]
fn the_layout_is_that_of_torch() {
    let forge = Forge::new("M").parameter("w", Tensor::new(&[2], [1.0, -2.0])).record("extra/note", "hello");
    let names: Vec<String> = records(forge.bytes()).into_iter().map(|(name, _)| name).collect();
    assert_eq!(
        names,
        [
            "M/data/0",
            "M/data.pkl",
            "M/code/__torch__.py",
            "M/constants.pkl",
            "M/version",
            "M/byteorder",
            "M/extra/note"
        ]
    );
    assert_eq!(record(forge.bytes(), "M/data/0"), [0, 0, 0x80, 0x3f, 0, 0, 0, 0xc0]);
    assert_eq!(forge.bytes(), forge.bytes());
}

#[test]
fn the_source_declares_fields_and_keeps_methods() {
    let sub = Forge::new("Sub").function("def twice(x: Tensor) -> Tensor:\n  return x + x");
    let forge = Forge::new("M")
        .parameter("w", Tensor::zeros(&[2, 3]))
        .buffer("b", Tensor::zeros(&[3]))
        .attribute("pair", Value::Tuple(vec![7.into(), "seven".into()]))
        .attribute("sub", sub)
        .forward("def forward(self, x):\n  return x");
    let source = String::from_utf8(record(forge.bytes(), "M/code/__torch__.py")).unwrap();
    assert_eq!(
        source,
        r#"def twice(x: Tensor) -> Tensor:
  return x + x
class Sub(Module):
  __parameters__ = []
  __buffers__ = []
  training : bool
class M(Module):
  __parameters__ = ["w", ]
  __buffers__ = ["b", ]
  training : bool
  w : Tensor
  b : Tensor
  pair : Tuple[int, str]
  sub : __torch__.Sub
  def forward(self, x):
    return x
"#
    );
}

#[test]
fn attributes_are_pickled_as_a_dictionary_and_a_state_as_itself() {
    let plain = record(Forge::new("M").bytes(), "M/data.pkl");
    assert_eq!(plain, b"\x80\x02c__torch__\nM\n)\x81}(X\x08\0\0\0training\x89ub.");

    let stateful = Forge::new("M").set_state(-2, "def __setstate__(self, state: int):\n  self.training = False");
    assert_eq!(
        record(stateful.bytes(), "M/data.pkl"),
        b"\x80\x02c__torch__\nM\n)\x81\x8a\x08\xfe\xff\xff\xff\xff\xff\xff\xffb."
    );
    let source = String::from_utf8(record(stateful.bytes(), "M/code/__torch__.py")).unwrap();
    assert!(source.contains("  def __getstate__(self) -> int:\n"), "{source}");
}

#[test]
fn literals_are_escaped() {
    assert_eq!(literal("a\"b\\c\nd\u{7}é"), r#""a\"b\\c\nd\007é""#);
}
