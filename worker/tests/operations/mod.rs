//! Operations of every kind, in one model.

use casemate_ipc::launch::RunTimeCode;
use casemate_tests::forge::Forge;

use crate::cell::{Birth, Value, f32s, i64s};

/// `x` is f32[16,64], `i` is i64[16] between 0 and 15.
pub(crate) const OPERATIONS: &[(&str, &str)] = &[
    ("matrix product", "x @ x.t()"),
    ("product, f64", "x.to(7) @ x.to(7).t()"),
    ("product, f16", "x.to(5) @ x.to(5).t()"),
    ("product, bf16", "x.to(15) @ x.to(15).t()"),
    ("product, i64", "i.expand([16, 16]) @ i.expand([16, 16])"),
    ("product, i32", "i.to(3).expand([16, 16]) @ i.to(3).expand([16, 16])"),
    ("product, i8", "i.to(1).expand([16, 16]) @ i.to(1).expand([16, 16])"),
    ("product, u8", "i.to(0).expand([16, 16]) @ i.to(0).expand([16, 16])"),
    ("product, complex", "torch.real(torch.complex(x, x) @ torch.complex(x, x).t())"),
    ("large product", "torch.ones([600, 600]) @ torch.ones([600, 600])"),
    ("products of many sizes", "__torch__.products()"),
    ("batched product", "torch.bmm(x.reshape([4, 4, 64]), x.reshape([4, 64, 4]))"),
    ("batched product, bf16", "torch.bmm(x.to(15).reshape([4, 4, 64]), x.to(15).reshape([4, 64, 4]))"),
    ("einsum", "torch.einsum(\"ij,kj->ik\", [x, x])"),
    ("linear", "torch.linear(x, torch.ones([32, 64]), torch.ones([32]))"),
    ("linear, bf16", "torch.linear(x.to(15), torch.ones([32, 64]).to(15))"),
    ("linear, f16", "torch.linear(x.to(5), torch.ones([32, 64]).to(5))"),
    ("conv1d", "torch.conv1d(x.unsqueeze(1), torch.ones([3, 1, 5]))"),
    ("conv2d", "torch.conv2d(x.reshape([16, 1, 8, 8]), torch.ones([3, 1, 3, 3]))"),
    ("conv2d of many", "torch.conv2d(torch.ones([32, 16, 32, 32]), torch.ones([32, 16, 3, 3]), padding=[1, 1])"),
    ("conv2d 1x1", "torch.conv2d(torch.ones([4, 16, 8, 8]), torch.ones([32, 16, 1, 1]))"),
    ("conv2d, depthwise", "torch.conv2d(torch.ones([4, 16, 8, 8]), torch.ones([16, 1, 3, 3]), groups=16)"),
    ("conv2d, dilated", "torch.conv2d(torch.ones([1, 4, 16, 16]), torch.ones([4, 4, 3, 3]), dilation=[2, 2])"),
    ("conv2d, bf16", "torch.conv2d(torch.ones([1, 4, 8, 8]).to(15), torch.ones([4, 4, 3, 3]).to(15))"),
    ("conv2d, f16", "torch.conv2d(torch.ones([1, 4, 8, 8]).to(5), torch.ones([4, 4, 3, 3]).to(5))"),
    ("conv3d", "torch.conv3d(x.reshape([4, 4, 4, 4, 4]), torch.ones([2, 4, 3, 3, 3]))"),
    ("conv_transpose2d", "torch.conv_transpose2d(x.reshape([16, 1, 8, 8]), torch.ones([1, 2, 3, 3]))"),
    ("channels last", "torch.conv2d(x.reshape([1, 16, 8, 8]).contiguous(memory_format=2), torch.ones([4, 16, 3, 3]))"),
    ("pooling", "torch.max_pool2d(x.reshape([16, 1, 8, 8]), [2, 2])"),
    ("average pooling", "torch.adaptive_avg_pool2d(x.reshape([16, 1, 8, 8]), [3, 3])"),
    (
        "norms",
        "torch.layer_norm(x, [64]) + torch.group_norm(x, 4) + torch.batch_norm(x, None, None, None, None, True, 0.1, 1e-5, False)",
    ),
    ("softmax", "torch.softmax(x, -1) + torch.log_softmax(x, 0)"),
    (
        "activations",
        "torch.relu(x) + torch.sigmoid(x) + torch.tanh(x) + ops.aten.gelu(x) + ops.aten.silu(x) + ops.aten.mish(x)",
    ),
    (
        "exp and friends",
        "torch.exp(x) + torch.log(x + 2) + torch.sin(x) + torch.erf(x) + torch.sqrt(x + 2) + torch.lgamma(x + 2)",
    ),
    ("powers", "torch.pow(x + 2, 2.5) + (x + 2) ** 3 + torch.rsqrt(x + 2)"),
    ("large sum", "torch.ones([3000000]).sum()"),
    ("large exp", "torch.exp(torch.ones([2000000]))"),
    ("reductions", "x.mean(0) + x.std(0) + x.amax(0) + x.prod(0) + torch.logsumexp(x, 0)"),
    ("median", "torch.median(x, 0)[0] + torch.kthvalue(x, 2, 0)[0] + torch.mode(x, 0)[0]"),
    ("sort", "torch.sort(x)[0] + torch.argsort(x)"),
    ("large sort (random)", "torch.sort(torch.rand([500000]))[0]"),
    ("large sort, i64 (random)", "torch.sort(torch.randint(100, [500000]))[0]"),
    ("topk", "torch.topk(x, 5)[0]"),
    ("unique", "torch._unique2(i, True, True, True)[0]"),
    ("bincount", "torch.bincount(i)"),
    ("histc", "torch.histc(x, 10)"),
    ("cumsum", "torch.cumsum(x, 0) + torch.cumprod(x, 0) + torch.logcumsumexp(x, 0)"),
    (
        "gather and scatter",
        "torch.gather(x, 0, i.unsqueeze(1)) + torch.zeros([16, 1]).scatter_add(0, i.unsqueeze(1), x[:, :1])",
    ),
    ("index", "x[i] + torch.index_select(x, 0, i) + x.index_add(0, i, x)"),
    ("masked", "torch.masked_select(x, x > 0).sum() + torch.where(x > 0, x, -x) + x.masked_fill(x > 0, 0)"),
    ("nonzero", "torch.nonzero(x)"),
    ("searchsorted", "torch.searchsorted(torch.sort(x[0])[0], x)"),
    ("embedding", "torch.embedding(torch.ones([16, 8]), i)"),
    ("embedding bag", "torch.embedding_bag(torch.ones([16, 8]), i, torch.zeros([1], dtype=4))[0]"),
    ("embedding bag, mean", "torch.embedding_bag(torch.ones([16, 64]), i, torch.zeros([1], dtype=4), False, 1)[0]"),
    ("embedding bag, f16", "torch.embedding_bag(torch.ones([16, 64]).to(5), i, torch.zeros([1], dtype=4))[0]"),
    (
        "attention",
        "ops.aten.scaled_dot_product_attention(x.reshape([1, 2, 8, 64]), x.reshape([1, 2, 8, 64]), x.reshape([1, 2, 8, 64]))",
    ),
    (
        "attention, causal",
        "ops.aten.scaled_dot_product_attention(x.reshape([1, 2, 8, 64]), x.reshape([1, 2, 8, 64]), x.reshape([1, 2, 8, 64]), None, 0., True)",
    ),
    (
        "attention, bf16",
        "ops.aten.scaled_dot_product_attention(x.to(15).reshape([1, 2, 8, 64]), x.to(15).reshape([1, 2, 8, 64]), x.to(15).reshape([1, 2, 8, 64]))",
    ),
    (
        "lstm",
        "ops.aten.lstm(x.unsqueeze(0), [torch.zeros([1, 16, 8]), torch.zeros([1, 16, 8])], [torch.ones([32, 64]), torch.ones([32, 8]), torch.ones([32]), torch.ones([32])], True, 1, 0., False, False, False)[0]",
    ),
    (
        "gru",
        "ops.aten.gru(x.unsqueeze(0), torch.zeros([1, 16, 8]), [torch.ones([24, 64]), torch.ones([24, 8]), torch.ones([24]), torch.ones([24])], True, 1, 0., False, False, False)[0]",
    ),
    ("upsampling", "ops.aten.upsample_bilinear2d(x.reshape([1, 16, 8, 8]), [16, 16], False, None)"),
    ("upsampling, bicubic", "ops.aten.upsample_bicubic2d(x.reshape([1, 16, 8, 8]), [16, 16], False, None)"),
    ("grid sampling", "torch.grid_sampler(x.reshape([1, 16, 8, 8]), torch.zeros([1, 4, 4, 2]), 0, 0, False)"),
    ("padding", "torch.constant_pad_nd(x, [1, 1], 0.) .sum() + ops.aten.reflection_pad1d(x, [2, 2]).sum()"),
    ("pixel shuffle", "torch.pixel_shuffle(x.reshape([1, 16, 8, 8]), 4)"),
    ("fft", "torch.abs(ops.aten.fft_fft(x)) + torch.real(ops.aten.fft_ifft(ops.aten.fft_fft(x)))"),
    ("fft, odd and f64", "torch.abs(ops.aten.fft_rfft(x.to(7)[:, :61]))"),
    ("fft2", "torch.abs(ops.aten.fft_fft2(x))"),
    ("stft", "torch.abs(torch.stft(x[0], 16, 4, 16, torch.ones([16]), False, True, True))"),
    ("inverse", "ops.aten.linalg_inv(x @ x.t() + torch.eye(16) * 99)"),
    ("cholesky", "ops.aten.linalg_cholesky(x @ x.t() + torch.eye(16) * 99)"),
    ("svd", "ops.aten.linalg_svd(x)[1]"),
    ("qr", "ops.aten.linalg_qr(x)[1]"),
    ("eigh", "ops.aten.linalg_eigh(x @ x.t())[0]"),
    ("eig", "torch.abs(ops.aten.linalg_eig(x @ x.t())[0])"),
    ("solve", "ops.aten.linalg_solve(x @ x.t() + torch.eye(16) * 99, x)"),
    ("lstsq (random)", "ops.aten.linalg_lstsq(x, x)[0]"),
    ("determinant", "ops.aten.linalg_det(x @ x.t()) + ops.aten.linalg_matrix_norm(x)"),
    ("matrix exponential", "torch.matrix_exp(x @ x.t() / 100)"),
    ("distances", "torch.cdist(x, x) + torch.cosine_similarity(x, x, 1)"),
    ("random (random)", "torch.rand([100]) + torch.randn([100]) + torch.randperm(100)"),
    ("multinomial (random)", "torch.multinomial(torch.softmax(x, -1), 3)"),
    ("bernoulli, dropout (random)", "torch.bernoulli(torch.sigmoid(x)) + torch.dropout(x, 0.5, True)"),
    ("sparse", "torch.mm(x.to_sparse(), x.t())"),
    ("sparse csr", "torch.mm(x.to_sparse_csr(), x.t())"),
    ("quantize", "torch.dequantize(torch.quantize_per_tensor(x, 0.1, 0, 13))"),
    ("fake quantize", "torch.fake_quantize_per_tensor_affine(x, 0.1, 0, 0, 255)"),
    ("strings", "torch.full_like(x, float(len(\"a{}b\".format(int(i[0]))) + len(\"a b c\".split(\" \"))))"),
    ("einsum of three", "torch.einsum(\"ij,kj,lj->ikl\", [x, x, x])"),
    ("triangles", "torch.tril(x) + torch.triu(x) + torch.flip(x, [0]) + torch.roll(x, 1)"),
    ("unfold", "ops.aten.im2col(x.reshape([16, 1, 8, 8]), [3, 3], [1, 1], [0, 0], [1, 1])"),
    ("nested", "ops.aten.linalg_norm(torch.stack([x, x]).permute([2, 0, 1]))"),
    ("casts", "x.to(5).to(15).to(7).to(4).to(11).to(0).to(6)"),
    ("channel shuffle", "torch.channel_shuffle(x.reshape([1, 16, 8, 8]), 4)"),
    ("fork", "ops.aten.wait(fork(__torch__.work, x)) + ops.aten.wait(fork(__torch__.work, x))"),
    ("warning", "torch.std(x[:1], dim=[0], correction=5).nan_to_num(0.)"),
];

/// One model with all of them: the first input says which.
pub(crate) fn model() -> Vec<u8> {
    let mut source =
        String::from("def forward(self, n: Tensor, x: Tensor, i: Tensor) -> Tensor:\n  k = int(n[0])\n  y = x\n");
    for (at, (_, body)) in OPERATIONS.iter().enumerate() {
        source += &format!("  if k == {}:\n    y = {body}\n", at + 1);
    }
    source += "  return y.to(6).sum()";
    let products = "def products() -> Tensor:
  total = torch.zeros([1])
  for m in [1, 2, 3, 5, 8, 17, 33, 64, 100, 257, 700]:
    for n in [1, 2, 4, 7, 16, 31, 96, 300]:
      for k in [1, 3, 8, 64, 200]:
        total += torch.mm(torch.ones([m, k]), torch.ones([k, n])).sum()
        total += torch.mm(torch.ones([m, k]), torch.ones([n, k]).t()).sum()
        total += torch.bmm(torch.ones([3, m, k]), torch.ones([3, k, n])).sum()
        total += torch.mv(torch.ones([m, k]), torch.ones([k])).sum()
  return total";
    Forge::new("M")
        .function(products)
        .function("def work(x: Tensor) -> Tensor:\n  return torch.ones([600, 600]) @ torch.ones([600, 600])")
        .forward(&source)
        .bytes()
}

/// The worker of that model.
pub(crate) fn birth(threads: u32, run_time_code: RunTimeCode) -> Birth {
    let birth = Birth { threads, run_time_code, ..Birth::torch(model()) };
    birth.inputs(&["n:INT64[1]", "x:FP32[16,64]", "i:INT64[16]"]).outputs(&["y:FP32[]"])
}

/// The inputs for the operation at that place of the list.
pub(crate) fn inputs(at: usize) -> [Value; 3] {
    let x: Vec<f32> = (0..16 * 64).map(|v| (v % 17) as f32 / 17.0 - 0.5).collect();
    let i: Vec<i64> = (0..16).collect();
    [i64s(&[1], &[at as i64 + 1]), f32s(&[16, 64], &x), i64s(&[16], &i)]
}
