//! Ready-made models: well-behaved ones, and ones that act against the server.
//!
//! Unless its line says otherwise a model takes `x` f32[-1,4] and gives `y` f32[-1,4], so one manifest serves nearly
//! all. A model that takes a [`When`] answers its input unchanged until its moment has come. Each was seen to do its
//! act in libtorch 2.13.0 without a cage: a test that finds no trace of the act has met the cage, not a dud.

use crate::forge::{Forge, Tensor, literal};

/// When a model acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// While the file is loaded, in `__setstate__`, before any check of the graph could run: on one row of zeros, and
    /// what the act gives is added to every input after. Says little of a model whose act is the shape of its output.
    Load,
    /// In every request, the warm-up included.
    Always,
    /// In a request whose `x[0, 0]` is above [`ASK`]. The warm-up on zeros passes.
    Asked,
}

/// The greatest `x[0, 0]` that leaves a model of [`When::Asked`] calm.
pub const ASK: f32 = 1000.0;

/// `y = x · W + b` with the fixed weights of [`linear_answer`]; `x` is f32[-1,inputs] and `y` f32[-1,outputs].
pub fn linear(inputs: usize, outputs: usize) -> Vec<u8> {
    let weights: Vec<f32> = (0..inputs).flat_map(|i| (0..outputs).map(move |o| weight(i, o))).collect();
    let biases: Vec<f32> = (0..outputs).map(bias).collect();
    Forge::new("Linear")
        .parameter("w", Tensor::new(&[inputs, outputs], weights))
        .parameter("b", Tensor::new(&[outputs], biases))
        .forward("def forward(self, x: Tensor) -> Tensor:\n  return x @ self.w + self.b")
        .bytes()
}

/// What [`linear`] answers to one row. Exact for small whole numbers, in whatever order the sum is taken.
pub fn linear_answer(row: &[f32], outputs: usize) -> Vec<f32> {
    let dot = |o| row.iter().enumerate().map(|(i, x)| x * weight(i, o)).sum::<f32>();
    (0..outputs).map(|o| dot(o) + bias(o)).collect()
}

/// `y = 2x`, of any shape and numeric type.
pub fn double() -> Vec<u8> {
    forward("return x * 2")
}

/// Random numbers, other ones at each request.
pub fn dice() -> Vec<u8> {
    forward("return torch.rand_like(x)")
}

/// `y = x`, of any shape and type.
pub fn identity() -> Vec<u8> {
    forward("return x")
}

/// Gives the sum of each row: `x` i64[-1,n], `y` i64[-1].
pub fn sum_int64() -> Vec<u8> {
    forward("return x.sum([1])")
}

/// Gives, in every place, how many rows came in together: shows batching.
pub fn batch_rows() -> Vec<u8> {
    forward("return torch.full_like(x, float(x.size(0)))")
}

/// Takes `a` and `b`, gives the tuple `(a + b, a - b)`.
pub fn two_inputs_two_outputs() -> Vec<u8> {
    let source = "def forward(self, a: Tensor, b: Tensor) -> Tuple[Tensor, Tensor]:\n  return (a + b, a - b)";
    Forge::new("M").forward(source).bytes()
}

/// Gives the dictionary `{"double": 2x, "half": x/2}`.
pub fn dict_output() -> Vec<u8> {
    let source = "def forward(self, x: Tensor) -> Dict[str, Tensor]:\n  return {\"double\": x * 2, \"half\": x / 2}";
    Forge::new("M").forward(source).bytes()
}

/// Gives the list `[2x, x/2]`.
pub fn list_output() -> Vec<u8> {
    Forge::new("M").forward("def forward(self, x: Tensor) -> List[Tensor]:\n  return [x * 2, x / 2]").bytes()
}

/// Adds one to its input where it lies and gives it back.
pub fn in_place() -> Vec<u8> {
    forward("return x.add_(1)")
}

/// Gives the last row of the request before, for every row: what one client sent, another reads. Zeros at first.
pub fn keeps_state() -> Vec<u8> {
    let source = "def forward(self, x: Tensor) -> Tensor:
  before = self.kept
  self.kept = x[-1:].clone()
  return before.expand([x.size(0), 4]).clone()";
    Forge::new("M").attribute("kept", Tensor::zeros(&[1, 4])).forward(source).bytes()
}

/// Never comes back: a loop in the interpreter.
pub fn loop_forever(when: When) -> Vec<u8> {
    acting(when, "while True:\n    x = x + 1\n  return x")
}

/// Sums `elements` zeros that take no memory, in one kernel that nothing interrupts: about a second for 4 · 10⁹ on one
/// core. Gives `x`.
pub fn sleeps(when: When, elements: u64) -> Vec<u8> {
    acting(when, &format!("return x + (x[0, 0] * 0).expand([{elements}]).sum()"))
}

/// Takes `bytes` of memory and touches every page. Gives `x + 1`.
pub fn memory_bomb(when: When, bytes: u64) -> Vec<u8> {
    // The length hangs on the input, so that no optimiser allocates before the model is asked.
    acting(when, &format!("b = torch.ones([{bytes} + int(x[0, 0]) * 0], dtype=0)\n  return x + b[-1]"))
}

/// Writes an archive to `path` with `aten::save`, which hides every failure. Gives `x`.
pub fn save_file(when: When, path: &str) -> Vec<u8> {
    acting(when, &format!("torch.save(x, {})\n  return x", literal(path)))
}

/// Gives the first four bytes of the file at `path` in every row; an exception if there are none.
pub fn from_file_read(when: When, path: &str) -> Vec<u8> {
    let body = "f = torch.from_file(PATH, False, 4 + int(x[0, 0]) * 0, dtype=0)
  return f.to(6).unsqueeze(0).expand([x.size(0), 4]).clone()";
    acting(when, &body.replace("PATH", &literal(path)))
}

/// Creates the file at `path` with exactly the 16 bytes `CCCCCCCCCCCCCCCC`, or overwrites its first 16. Gives `x + 67`.
pub fn from_file_create(when: When, path: &str) -> Vec<u8> {
    let body = "f = torch.from_file(PATH, True, 16 + int(x[0, 0]) * 0, dtype=0)
  return x + f.fill_(67)[0]";
    acting(when, &body.replace("PATH", &literal(path)))
}

/// Prints `text` on a line of its own. Gives `x`.
pub fn print_once(when: When, text: &str) -> Vec<u8> {
    acting(when, &format!("print({})\n  return x", literal(text)))
}

/// Prints `lines` lines of 64 bytes. Gives `x`.
pub fn print_flood(when: When, lines: u64) -> Vec<u8> {
    acting(when, &format!("for i in range({lines}):\n    print({})\n  return x", literal(&"~".repeat(63))))
}

/// Raises an exception that says `text`.
pub fn raises(when: When, text: &str) -> Vec<u8> {
    acting(when, &format!("ops.prim.RaiseException({}, \"builtins.RuntimeError\")\n  return x", literal(text)))
}

/// Divides the smallest i64 by -1: SIGFPE.
pub fn crash_sigfpe(when: When) -> Vec<u8> {
    acting(when, "return x + (-9223372036854775807 - 1) // (int(x[0, 0]) * 0 - 1)")
}

/// Reads 4 TiB behind its input through an unchecked view: SIGSEGV.
pub fn crash_sigsegv(when: When) -> Vec<u8> {
    acting(when, "return x + ops.inductor._reinterpret_tensor(x, [1], [1], 1099511627776).clone()")
}

/// Overflows the stack of the parser while it is loaded: SIGSEGV.
pub fn deep_parentheses() -> Vec<u8> {
    const DEPTH: usize = 200_000;
    forward(&format!("return {}x{}", "(".repeat(DEPTH), ")".repeat(DEPTH)))
}

/// Gives f32[-1,5].
pub fn wrong_shape_output(when: When) -> Vec<u8> {
    acting(when, "return torch.zeros([x.size(0), 5])")
}

/// Gives f64[-1,4].
pub fn wrong_dtype_output(when: When) -> Vec<u8> {
    acting(when, "return x.to(7)")
}

/// Gives NaN in every place.
pub fn nan_output(when: When) -> Vec<u8> {
    acting(when, "return torch.full_like(x, nan)")
}

/// Gives a tensor of 2⁴⁰ columns, 4 TiB a row by its shape, on four bytes of storage.
pub fn expanded_output(when: When) -> Vec<u8> {
    acting(when, "return torch.zeros([1, 1]).expand([x.size(0), 1099511627776])")
}

/// Gives every row twice: more rows than came in.
pub fn mutates_rows(when: When) -> Vec<u8> {
    acting(when, "return torch.cat([x, x])")
}

fn forward(body: &str) -> Vec<u8> {
    Forge::new("M").forward(&format!("def forward(self, x: Tensor) -> Tensor:\n  {body}")).bytes()
}

/// A model whose act is the body of a function of `x`, indented by two; `x` is one row of zeros at load.
fn acting(when: When, body: &str) -> Vec<u8> {
    let forge = Forge::new("M").function(&format!("def act(x: Tensor) -> Tensor:\n  {body}"));
    let forward = "def forward(self, x: Tensor) -> Tensor:\n  ";
    let forge = match when {
        When::Load => forge
            .attribute("kept", Tensor::zeros(&[1, 4]))
            .set_state(
                0,
                "def __setstate__(self, state: int) -> NoneType:
  self.training = False
  self.kept = __torch__.act(torch.zeros([1, 4]))",
            )
            .forward(&format!("{forward}return x + self.kept")),
        When::Always => forge.forward(&format!("{forward}return __torch__.act(x)")),
        When::Asked => {
            forge.forward(&format!("{forward}if bool(x[0, 0] > {ASK:?}):\n    x = __torch__.act(x)\n  return x"))
        }
    };
    forge.bytes()
}

/// Eighths between -5/8 and 5/8, so that sums of whole numbers are exact.
fn weight(input: usize, output: usize) -> f32 {
    ((input * 7 + output * 3) % 11) as f32 / 8.0 - 0.625
}

fn bias(output: usize) -> f32 {
    output as f32 / 4.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_of_linear_is_its_formula() {
        assert_eq!(linear_answer(&[1.0, 2.0], 2), [-0.625 + 2.0 * 0.25, -0.25 + 2.0 * 0.625 + 0.25]);
    }

    #[test]
    fn an_act_appears_once_whenever_it_comes() {
        for when in [When::Load, When::Always, When::Asked] {
            let bytes = save_file(when, "/a \"path\"");
            let act = br#"torch.save(x, "/a \"path\"")"#;
            let found = bytes.windows(act.len()).filter(|window| window == act).count();
            assert_eq!(found, 1, "{when:?}");
        }
    }
}
