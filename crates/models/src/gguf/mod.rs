//! Reading GGUF files: the llama architecture, its tokenizer, and its tensors as `f32` under their Hugging Face names.
//!
//! The reader is this crate's own. The one in candle-core would bring 129 more crates, and it allocates by the counts a file
//! claims to have; here the file is mapped, every count, length and offset is checked against the file's size before anything is
//! allocated for it, and arrays stay in the mapping until they are asked for.

mod cursor;
mod dequant;
mod files;
mod names;
mod reader;
mod rope;
mod source;
mod special;
#[cfg(test)]
mod test_file;
#[cfg(test)]
mod tests;
mod tokenizer;
mod types;
mod value;

pub use dequant::dequantize;
pub use reader::{Gguf, TensorInfo};
pub use source::GgufFile;
pub use types::TensorType;
pub use value::ValueType;
