//! What the archive gate says of each model, by its code; `worker/gate/tests/zoo.rs` holds it to that. Entries that are not named here pass: their acts are made of what
//! honest models use, or are in values that no archive shows, and are the cage's.

use super::Gate;

pub(super) fn says(name: &str) -> Gate {
    match name {
        "load-bomb-code" | "load-bomb-tensor" => Gate::Always("archive-size"),
        "load-duplicate" | "load-long-name" | "load-no-zip" | "load-overlap" | "load-traversal" | "load-truncated" => {
            Gate::Always("archive-structure")
        }
        "load-deep-minus" | "load-deep-parentheses" | "load-deep-type" | "load-long-sum" => Gate::Always("code-depth"),
        "load-empty-subscript" | "load-enumeration" | "load-hook-bare" | "load-hook-before-gone" | "load-hook-gone" => {
            Gate::Always("code-text")
        }
        "load-call-tree" => Gate::Always("code-size"),
        "load-constants-global" | "load-global" => Gate::Always("pickle-global"),
        "load-constants-none" | "load-memo" | "load-setitems" => Gate::Always("pickle-opcode"),
        "load-constants-deep" | "load-deep-pickle" => Gate::Always("pickle-size"),
        "load-constants-record"
        | "memory-numel"
        | "memory-offset"
        | "memory-record-read"
        | "memory-record-write"
        | "memory-size"
        | "memory-stride" => Gate::Always("tensor-bounds"),
        "file-dlopen"
        | "file-fifo"
        | "file-map-make"
        | "file-map-over"
        | "file-oracle"
        | "file-probe-proc"
        | "file-read"
        | "file-save"
        | "file-save-over"
        | "leak-search"
        | "load-map"
        | "load-read"
        | "load-save"
        | "memory-address"
        | "memory-corrupt"
        | "memory-pool"
        | "memory-reinterpret-back"
        | "memory-reinterpret-read"
        | "memory-reinterpret-write"
        | "memory-wild-read"
        | "memory-wild-write"
        | "output-beyond"
        | "load-wild-read"
        | "remote-call"
        | "remote-gather"
        | "remote-reduce"
        | "remote-send" => Gate::Refuses("graph-denied"),
        "load-allocate" | "load-loop" | "load-print" | "load-raise" | "load-sigfpe" => Gate::Refuses("graph-hook"),
        "leak-resizes"
        | "load-packed-cell"
        | "load-packed-convolution"
        | "load-packed-linear"
        | "memory-offsets"
        | "output-zero"
        | "output-nested" => Gate::Refuses("graph-unlisted"),
        _ => Gate::Passes,
    }
}
