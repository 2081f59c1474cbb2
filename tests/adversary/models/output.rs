//! Answers that are no answers, or that cost more to send than to make.

use super::{Build, Cage, Entry, Free};

const BAD: Cage = Cage::Refuses(502, "bad_output");

pub(super) fn all() -> Vec<Entry> {
    let mut all = refused();
    all.extend(values());
    all.extend(served());
    all
}

fn refused() -> Vec<Entry> {
    let entry = |name, act, body, says| Entry::new(name, act, Build::Asked(body), Free::Says(says), BAD);
    vec![
        entry(
            "output-expanded",
            "4 TiB a row by its shape, on four bytes",
            "return (x[:, :1] * 1).expand([x.size(0), 1099511627776])",
            "does not fit",
        )
        .outputs(&["y:FP32[-1,-1]"]),
        entry(
            "output-16-gib",
            "16 GiB by its shape, with overlapping rows",
            "return torch.as_strided(x * 1, [65536, 65536], [0, 0])",
            "does not fit",
        )
        .outputs(&["y:FP32[-1,-1]"]),
        entry("output-meta", "a tensor without data", "return torch.empty([1, 4], device=\"meta\")", "CPU"),
        entry("output-sparse", "a sparse tensor", "return x.to_sparse()", "sparse"),
        entry("output-csr", "a compressed sparse tensor", "return x.to_sparse_csr()", "sparse"),
        entry("output-quantized", "a quantized tensor", "return torch.quantize_per_tensor(x, 1.0, 0, 13)", "quantized"),
        entry("output-float8", "an element type of eight bits", "return x.to(23)", "Float8"),
        entry("output-complex", "complex numbers", "return torch.complex(x, x)", "complex"),
        entry("output-bool", "truth where numbers are declared", "return x > 0", "BOOL"),
        entry("output-double", "longer numbers than declared", "return x.to(7)", "FP64"),
        entry("output-rank-60", "sixty dimensions", "return torch.zeros([1] * 60)", "16 dimensions"),
        entry(
            "output-zero",
            "a tensor of zeros that has no storage",
            "return torch._efficientzerotensor([1, 4])",
            "storage",
        ),
        entry("output-columns", "a column more than declared", "return torch.cat([x, x[:, :1]], 1)", "shape"),
        entry("output-none-there", "no rows and no columns", "return x[:0, :0]", "shape"),
        entry(
            "output-beyond",
            "a view beyond its storage",
            "return ops.inductor._reinterpret_tensor(x, [1, 4], [4, 1], 1000000)",
            "beyond its storage",
        ),
        entry("output-nested", "a nested tensor", "return torch._nested_tensor_from_tensor_list([x, x])", "nested"),
    ]
}

/// What is no tensor at all.
fn values() -> Vec<Entry> {
    let entry = |name, act, kind, body, says| Entry::new(name, act, Build::Typed(kind, body), Free::Says(says), BAD);
    vec![
        entry("output-none", "None", "Optional[Tensor]", "return None", "None"),
        entry("output-int", "a number", "Any", "return 7", "Int"),
        entry("output-text", "a text that is not UTF-8", "Any", "return \"\\377\\376\"", "String"),
        entry("output-two", "two tensors where one is declared", "Any", "return (x, x)", "more tensors"),
        entry(
            "output-many",
            "300,000 tensors",
            "Any",
            "l : List[Tensor] = []
  for i in range(300000):
    l.append(x)
  return l",
            "more tensors",
        ),
        entry("output-few", "an empty list", "Any", "l : List[Tensor] = []\n  return l", "fewer tensors"),
        entry("output-named", "a dictionary without the declared name", "Any", "return {\"\\\"}\\015\\n\": x}", "Dict"),
        entry(
            "output-deep",
            "tuples in tuples in tuples",
            "Any",
            "return ((((((((((((x,),),),),),),),),),),),)",
            "fewer tensors",
        ),
    ]
}

fn served() -> Vec<Entry> {
    let entry = |name, act, body, free: fn(&[f32]) -> bool| {
        Entry::new(name, act, Build::Asked(body), Free::Answers(free), Cage::Answers(free))
    };
    let same = |y: &[f32]| y == super::ASKED;
    vec![
        entry(
            "output-overlapping",
            "rows that lie on each other",
            "return torch.as_strided(x * 1, [1, 4], [0, 0])",
            |y| y == [2000.0; 4],
        ),
        entry("output-transposed", "a transposed view", "return (x.t() * 1).t()", same),
        entry("output-gradient", "a tensor that wants a gradient", "return x.clone().requires_grad_(True)", same),
        entry(
            "output-conjugate",
            "the imaginary part of a conjugate: a view with a pending minus",
            "return torch.imag(torch.conj(torch.complex(x, -x)))",
            same,
        ),
        Entry::new(
            "output-empty-rows",
            "no rows for one that came",
            Build::Asked("return x[:0]"),
            Free::Answers(<[f32]>::is_empty),
            BAD,
        ),
        Entry::new(
            "output-generated",
            "a layout for which oneDNN writes machine code first",
            Build::Asked("return x.to_mkldnn()"),
            Free::Says("layout"),
            Cage::Syscall("mprotect"),
        ),
        Entry::new(
            "output-nan",
            "NaN and infinities",
            Build::Asked("return x * nan"),
            Free::Answers(|y| y[0].is_nan()),
            BAD,
        ),
    ]
}
