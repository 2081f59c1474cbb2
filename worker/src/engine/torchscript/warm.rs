//! Everything that libtorch opens, asks or sets up once, done once with work of our own: one thread, no model.
//!
//! The list grew from watching system calls (`strace -f`) of models under the serving filter. After it, loading and running
//! a model needs memory and nothing else.

use casemate_ipc::launch::RunTimeCode;
use casemate_ipc::tensor::{DType, Shape};
use tch::{Device, Kind, TchError, Tensor};

use super::super::contract::RunError;
use super::super::shim::convolution;
use super::super::shim::libtorch::{self, Fault, Module};
use super::kind_of;

/// Warms up. Trusted code only, so the first failure ends it.
pub fn warm_up(code: RunTimeCode) -> Result<(), RunError> {
    // One thread until Landlock, which binds a thread and what it starts, is on.
    tch::set_num_interop_threads(1);
    tch::set_num_threads(1);
    libtorch::setup(code == RunTimeCode::Allowed)?;
    optimise_nothing().map_err(failed)?;
    every_type().map_err(failed)?;
    every_family().map_err(failed)?;
    randomness().map_err(failed)?;
    small_module()?;
    // With oneDNN on, convolutions are its own business.
    if code == RunTimeCode::Refused {
        convolution::watch()?;
    }
    Ok(())
}

/// The profiling executor makes the first two calls slow, and its fuser would write machine code.
fn optimise_nothing() -> Result<(), TchError> {
    tch::jit::f_set_graph_executor_optimize(false)?;
    tch::jit::f_set_profiling_mode(false)?;
    tch::jit::f_set_tensor_expr_fuser_enabled(false)
}

/// Kernels are chosen by element type, and by what the CPU has, at the first call.
fn every_type() -> Result<(), TchError> {
    for dtype in DType::ALL {
        let kind = kind_of(dtype);
        let x = Tensor::f_ones([8, 8], (kind, Device::Cpu))?;
        let _ = x.f_to_kind(Kind::Double)?.f_to_kind(kind)?;
        let _ = x.f_eq_tensor(&x)?.f_all()?;
        let _ = Tensor::f_cat(&[&x, &x], 0)?.f_sort(0, false)?;
        if dtype != DType::Bool {
            let _ = x.f_matmul(&x)?;
            let _ = (x.f_add(&x)?.f_mul(&x)?).f_sum(kind)?;
        }
    }
    Ok(())
}

/// One operation of each family that has a library behind it.
fn every_family() -> Result<(), TchError> {
    let float = (Kind::Float, Device::Cpu);
    let image = Tensor::f_ones([1, 3, 16, 16], float)?;
    let kernel = Tensor::f_ones([4, 3, 3, 3], float)?;
    let bias = Tensor::f_zeros([4], float)?;
    let maps = image.f_conv2d(&kernel, Some(&bias), [1, 1], [1, 1], [1, 1], 1)?;
    let _ = maps.f_max_pool2d([2, 2], [2, 2], [0, 0], [1, 1], false)?.f_adaptive_avg_pool2d([1, 1])?;
    let none: Option<&Tensor> = None;
    let _ = maps.f_batch_norm(none, none, Some(&bias), Some(&bias.f_add_scalar(1)?), false, 0.1, 1e-5, false)?;
    let rows = Tensor::f_ones([4, 16], float)?;
    let weight = Tensor::f_ones([16, 16], float)?;
    let hidden = rows.f_linear(&weight, Some(&Tensor::f_zeros([16], float)?))?;
    let _ = hidden.f_layer_norm([16], none, none, 1e-5, false)?.f_gelu("none")?.f_gelu("tanh")?;
    let _ = hidden.f_softmax(-1, Kind::Float)?.f_log_softmax(-1, Kind::Float)?;
    let _ = hidden.f_relu()?.f_sigmoid()?.f_tanh()?.f_exp()?.f_erf()?;
    let cube = Tensor::f_ones([2, 4, 16], float)?;
    let _ = cube.f_bmm(&Tensor::f_ones([2, 16, 4], float)?)?;
    let heads = Tensor::f_ones([1, 2, 4, 8], float)?;
    let _ = Tensor::f_scaled_dot_product_attention(&heads, &heads, &heads, none, 0.0, false, None, false)?;
    let ids = Tensor::f_zeros([4], (Kind::Int64, Device::Cpu))?;
    let _ = Tensor::f_embedding(&weight, &ids, -1, false, false)?.f_argmax(-1, false)?;
    let _ = rows.f_topk(2, -1, true, true)?;
    let _ = rows.f_fft_rfft(None, -1, "backward")?;
    let _ = Tensor::f_linalg_inv(&weight.f_add(&Tensor::f_eye(16, float)?)?)?;
    // LAPACK complains of what is no number, and looks for the words to do it in a file. That it fails is what is wanted.
    let nothing = Tensor::f_full([2, 2], f64::NAN, float)?;
    let _ = nothing.f_linalg_lstsq(&nothing, None, "gelsd");
    Ok(())
}

/// The generators are seeded from /dev/urandom, once.
fn randomness() -> Result<(), TchError> {
    let float = (Kind::Float, Device::Cpu);
    let _ = Tensor::f_rand([64], float)?.f_dropout(0.5, true)?;
    let _ = Tensor::f_randn([64], float)?;
    let _ = Tensor::f_randint(10, [64], float)?.f_multinomial(1, false)?;
    Ok(())
}

/// The loader and the interpreter, on a module of our own: it prints, warns and fails as a model may.
fn small_module() -> Result<(), RunError> {
    let shape = Shape::new(vec![2, 4]).map_err(|e| RunError::Output(e.to_string()))?;
    let fill = |bytes: &mut [u8]| -> Result<(), RunError> {
        bytes.fill(0);
        Ok(())
    };
    let mut module = Module::load(TRUSTED)?;
    let names = [c"y".to_owned(), c"n".to_owned()];
    let good = libtorch::input(Kind::Float, &shape, fill)??;
    for mut output in module.forward(&[good], &names)? {
        libtorch::look(&output)?;
        libtorch::dense(&mut output)?;
    }
    // The way out of an error has its own one-time work: the unwinder, and the text with the line of the source.
    let wrong = Shape::new(vec![2, 5]).map_err(|e| RunError::Output(e.to_string()))?;
    let bad = libtorch::input(Kind::Float, &wrong, fill)??;
    match module.forward(&[bad], &names) {
        Err(Fault::Model(_)) => {}
        other => return Err(RunError::Model(format!("the trusted module should have failed: {other:?}"))),
    }
    match Module::load(b"not an archive") {
        Err(Fault::Model(_)) => Ok(()),
        other => Err(RunError::Model(format!("a file that is no archive was loaded: {other:?}"))),
    }
}

/// Made by the test forge from `tests/trusted.rs`, which holds its source and checks that this is it.
const TRUSTED: &[u8] = include_bytes!("trusted.pt");

fn failed(error: TchError) -> RunError {
    RunError::Model(error.to_string())
}
