//! What an honest model may expect: its numbers, in every type, in and out.

mod cell;

use casemate_ipc::work::Failure;
use casemate_tests::models::{self, When};
use cell::{Birth, f32s, i64s};

#[test]
fn a_linear_model_computes() {
    let birth = Birth::torch(models::linear(4, 2)).outputs(&["y:FP32[-1,2]"]);
    let mut cell = birth.ready();
    println!("exec to ready: {:?}, {}", cell.age(), cell.status("VmRSS"));
    let rows = [1.0, 2.0, 3.0, 4.0, -1.0, 0.0, 5.0, 2.0];
    let y = cell.run(&[f32s(&[2, 4], &rows)]);
    let expected: Vec<f32> = rows.chunks(4).flat_map(|row| models::linear_answer(row, 2)).collect();
    assert_eq!(y[0].to_f32s(), expected);
    assert_eq!(y[0].dims, [2, 2]);
    assert_eq!(cell.drain(), Some(0));
}
