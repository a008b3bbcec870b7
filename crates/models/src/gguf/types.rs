use std::fmt;

/// How a GGUF tensor's numbers are stored.
///
/// # Source
///
/// `enum ggml_type` and the block structs of ggml's `ggml-common.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorType {
    id: u32,
    name: &'static str,
    block_elements: usize,
    block_bytes: usize,
}

macro_rules! tensor_types {
    ($($constant:ident = $id:literal, $elements:literal numbers in $bytes:literal bytes;)*) => {
        #[allow(missing_docs)]
        impl TensorType {
            $(pub const $constant: Self = Self {
                id: $id, name: stringify!($constant), block_elements: $elements, block_bytes: $bytes,
            };)*
        }

        const KNOWN: &[TensorType] = &[$(TensorType::$constant),*];
    };
}

tensor_types! {
    F32 = 0, 1 numbers in 4 bytes;
    F16 = 1, 1 numbers in 2 bytes;
    Q4_0 = 2, 32 numbers in 18 bytes;
    Q4_1 = 3, 32 numbers in 20 bytes;
    Q5_0 = 6, 32 numbers in 22 bytes;
    Q5_1 = 7, 32 numbers in 24 bytes;
    Q8_0 = 8, 32 numbers in 34 bytes;
    Q8_1 = 9, 32 numbers in 36 bytes;
    Q2_K = 10, 256 numbers in 84 bytes;
    Q3_K = 11, 256 numbers in 110 bytes;
    Q4_K = 12, 256 numbers in 144 bytes;
    Q5_K = 13, 256 numbers in 176 bytes;
    Q6_K = 14, 256 numbers in 210 bytes;
    Q8_K = 15, 256 numbers in 292 bytes;
    IQ2_XXS = 16, 256 numbers in 66 bytes;
    IQ2_XS = 17, 256 numbers in 74 bytes;
    IQ3_XXS = 18, 256 numbers in 98 bytes;
    IQ1_S = 19, 256 numbers in 50 bytes;
    IQ4_NL = 20, 32 numbers in 18 bytes;
    IQ3_S = 21, 256 numbers in 110 bytes;
    IQ2_S = 22, 256 numbers in 82 bytes;
    IQ4_XS = 23, 256 numbers in 136 bytes;
    I8 = 24, 1 numbers in 1 bytes;
    I16 = 25, 1 numbers in 2 bytes;
    I32 = 26, 1 numbers in 4 bytes;
    I64 = 27, 1 numbers in 8 bytes;
    F64 = 28, 1 numbers in 8 bytes;
    IQ1_M = 29, 256 numbers in 56 bytes;
    BF16 = 30, 1 numbers in 2 bytes;
    TQ1_0 = 34, 256 numbers in 54 bytes;
    TQ2_0 = 35, 256 numbers in 66 bytes;
    MXFP4 = 39, 32 numbers in 17 bytes;
}

impl TensorType {
    /// The type with ggml's number `id`.
    pub fn from_id(id: u32) -> Option<Self> {
        KNOWN.iter().copied().find(|known| known.id == id)
    }

    /// ggml's number of the type.
    pub fn id(self) -> u32 {
        self.id
    }

    /// How many numbers share one block.
    pub fn block_elements(self) -> usize {
        self.block_elements
    }

    /// Bytes of one block.
    pub fn block_bytes(self) -> usize {
        self.block_bytes
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}
