use std::collections::HashMap;
use std::io::Read;
use std::path::PathBuf;

use half::f16;
use safetensors::tensor::Dtype;

use super::{ArtefactFile, ArtefactLabel};
use crate::{Error, Result};

/// The tensors of a file, read into the memory that they stay in.
#[derive(Debug)]
pub(crate) struct ReadTensors {
    path: PathBuf,
    by_name: HashMap<String, ReadTensor>,
}

#[derive(Debug)]
struct ReadTensor {
    dtype: Dtype,
    shape: Vec<usize>,
    numbers: Numbers,
}

impl ReadTensors {
    /// Reads all tensors; without a label the contents are not checked.
    pub(crate) fn read(file: ArtefactFile<impl Read>, label: Option<&ArtefactLabel>) -> Result<Self> {
        let path = file.path().to_owned();
        let tensor = |(name, info): (&str, &safetensors::tensor::TensorInfo)| {
            let (start, end) = info.data_offsets;
            let numbers = Numbers::with_capacity(info.dtype, end - start);
            (name.to_owned(), ReadTensor { dtype: info.dtype, shape: info.shape.clone(), numbers })
        };
        let mut by_name: HashMap<String, ReadTensor> = file.tensors().map(tensor).collect();
        file.parts(label, |name, _, part| {
            by_name.get_mut(name).into_iter().for_each(|tensor| tensor.numbers.extend(part));
            Ok(())
        })?;
        Ok(Self { path, by_name })
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.by_name.keys().map(String::as_str)
    }

    pub(super) fn is_of<T: Number>(&self, name: &str) -> bool {
        self.by_name.get(name).is_some_and(|tensor| tensor.dtype == T::DTYPE)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// Takes shape and numbers of a tensor.
    pub(crate) fn take<T: Number>(&mut self, name: &str) -> Result<(Vec<usize>, Vec<T>)> {
        let tensor = self.by_name.remove(name).ok_or_else(|| self.fault(format!("holds no tensor {name}")))?;
        let found = tensor.dtype;
        let values = T::of(tensor.numbers).ok_or_else(|| self.fault(format!("holds {name} as {found:?} instead of {:?}", T::DTYPE)))?;
        Ok((tensor.shape, values))
    }

    /// An error that names the file.
    pub(crate) fn fault(&self, message: impl Into<String>) -> Error {
        Error::format(&self.path, message)
    }
}

/// A number that is read.
pub(crate) trait Number: Sized {
    const DTYPE: Dtype;

    fn of(numbers: Numbers) -> Option<Vec<Self>>;
}

macro_rules! numbers {
    ($($dtype:ident $number:ty),*) => {
        /// The numbers of a tensor that was read.
        #[derive(Debug)]
        pub(crate) enum Numbers {
            $($dtype(Vec<$number>),)*
            /// Of a type that nobody reads.
            Other,
        }

        impl Numbers {
            /// Room for `bytes` bytes of numbers.
            fn with_capacity(dtype: Dtype, bytes: usize) -> Self {
                match dtype {
                    $(Dtype::$dtype => Self::$dtype(Vec::with_capacity(bytes / size_of::<$number>())),)*
                    _ => Self::Other,
                }
            }

            /// Adds the little-endian numbers of a part.
            fn extend(&mut self, part: &[u8]) {
                match self {
                    $(Self::$dtype(values) => values.extend(part.as_chunks().0.iter().map(|bytes| <$number>::from_le_bytes(*bytes))),)*
                    Self::Other => {}
                }
            }
        }

        $(impl Number for $number {
            const DTYPE: Dtype = Dtype::$dtype;

            fn of(numbers: Numbers) -> Option<Vec<Self>> {
                match numbers {
                    Numbers::$dtype(values) => Some(values),
                    _ => None,
                }
            }
        })*
    };
}

numbers!(F32 f32, F16 f16, F64 f64, U32 u32, U64 u64);
