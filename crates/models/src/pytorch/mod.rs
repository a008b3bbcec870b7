//! Checkpoints that PyTorch wrote: `pytorch_model.bin`, its shards, and single `*.pt` and `*.pth` files.
//!
//! Such a file is a pickle, which is a program: unpickling as Python does may run anything. The `pytorch-reader` crate (burn's) only
//! builds tensors from it and runs nothing; what it does not know it leaves as a name. A file whose objects come from anywhere but
//! where weights come from is refused all the same, because nobody should use it.

mod files;
mod folder;
mod source;

pub(crate) use files::has_weights;
pub use files::{PYTORCH_FILE, PYTORCH_INDEX_FILE};
pub use folder::PytorchFolder;
pub use source::PytorchSource;
