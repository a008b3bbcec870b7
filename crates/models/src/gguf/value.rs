use std::fmt;
use std::ops::Range;

use super::cursor::{Cursor, Failure};

/// Type of a metadata value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum ValueType {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    String,
    Array,
    U64,
    I64,
    F64,
}

impl ValueType {
    fn from_id(id: u32) -> Option<Self> {
        use ValueType::*;
        [U8, I8, U16, I16, U32, I32, F32, Bool, String, Array, U64, I64, F64].get(usize::try_from(id).ok()?).copied()
    }

    /// Bytes of a value of fixed size.
    fn size(self) -> Option<usize> {
        match self {
            Self::U8 | Self::I8 | Self::Bool => Some(1),
            Self::U16 | Self::I16 => Some(2),
            Self::U32 | Self::I32 | Self::F32 => Some(4),
            Self::U64 | Self::I64 | Self::F64 => Some(8),
            Self::String | Self::Array => None,
        }
    }

    /// The fewest bytes a value can take: a text has its length, an array its type and length.
    fn least_bytes(self) -> usize {
        match self {
            Self::String => 8,
            Self::Array => 12,
            fixed => fixed.size().unwrap_or(1),
        }
    }
}

impl fmt::Display for ValueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", format!("{self:?}").to_lowercase())
    }
}

/// A metadata value; arrays stay in the file.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Integer(i128),
    F32(f32),
    F64(f64),
    Bool(bool),
    String(String),
    Array { element: ValueType, count: usize, bytes: Range<usize> },
}

impl Value {
    /// What the value is, for messages.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Integer(value) => format!("the integer {value}"),
            Self::F32(value) => format!("the number {value}"),
            Self::F64(value) => format!("the number {value}"),
            Self::Bool(value) => format!("{value}"),
            Self::String(_) => "a text".to_owned(),
            Self::Array { element, count, .. } => format!("an array of {count} {element}"),
        }
    }
}

/// Arrays may hold arrays; deeper than this is an attack on the stack.
const MAX_DEPTH: usize = 4;

pub(super) fn read_type(cursor: &mut Cursor<'_>) -> Result<ValueType, Failure> {
    let id = cursor.u32()?;
    ValueType::from_id(id).ok_or_else(|| format!("value type {id} is unknown"))
}

/// Reads one value of type `kind`; an array is walked to its end, so that reading it later cannot fail.
pub(super) fn read_value(cursor: &mut Cursor<'_>, kind: ValueType) -> Result<Value, Failure> {
    Ok(match kind {
        ValueType::U8 => Value::Integer(u8::from_le_bytes(cursor.array()?).into()),
        ValueType::I8 => Value::Integer(i8::from_le_bytes(cursor.array()?).into()),
        ValueType::U16 => Value::Integer(u16::from_le_bytes(cursor.array()?).into()),
        ValueType::I16 => Value::Integer(i16::from_le_bytes(cursor.array()?).into()),
        ValueType::U32 => Value::Integer(u32::from_le_bytes(cursor.array()?).into()),
        ValueType::I32 => Value::Integer(i32::from_le_bytes(cursor.array()?).into()),
        ValueType::U64 => Value::Integer(u64::from_le_bytes(cursor.array()?).into()),
        ValueType::I64 => Value::Integer(i64::from_le_bytes(cursor.array()?).into()),
        ValueType::F32 => Value::F32(f32::from_le_bytes(cursor.array()?)),
        ValueType::F64 => Value::F64(f64::from_le_bytes(cursor.array()?)),
        ValueType::Bool => match cursor.array::<1>()? {
            [0] => Value::Bool(false),
            [1] => Value::Bool(true),
            [other] => return Err(format!("a bool is {other}, not 0 or 1")),
        },
        ValueType::String => Value::String(cursor.text()?.to_owned()),
        ValueType::Array => {
            let (element, count) = array_head(cursor)?;
            let start = cursor.position();
            skip_elements(cursor, element, count, 1)?;
            Value::Array { element, count, bytes: start..cursor.position() }
        }
    })
}

fn array_head(cursor: &mut Cursor<'_>) -> Result<(ValueType, usize), Failure> {
    let element = read_type(cursor)?;
    let count = cursor.count("array elements", element.least_bytes())?;
    Ok((element, count))
}

fn skip_elements(cursor: &mut Cursor<'_>, element: ValueType, count: usize, depth: usize) -> Result<(), Failure> {
    if depth > MAX_DEPTH {
        return Err(format!("arrays are nested more than {MAX_DEPTH} deep"));
    }
    match element {
        ValueType::String => {
            for _ in 0..count {
                cursor.text()?;
            }
        }
        ValueType::Array => {
            for _ in 0..count {
                let (element, count) = array_head(cursor)?;
                skip_elements(cursor, element, count, depth + 1)?;
            }
        }
        fixed => {
            let bytes = fixed.size().and_then(|size| size.checked_mul(count)).ok_or("an array is too long")?;
            cursor.take(bytes)?;
        }
    }
    Ok(())
}
