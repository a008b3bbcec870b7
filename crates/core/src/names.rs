use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Stack;

/// A parameter's name in the Hugging Face checkpoint, e.g. `model.layers.3.mlp.down_proj.weight`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ParamName(String);

impl ParamName {
    /// Wraps a full parameter name.
    pub fn new(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    /// The weight of a module given by an EasyEdit template (`{}` stands for the layer); a template that already ends in
    /// `.weight` is taken as it is.
    pub fn weight_of(template: &str, layer: usize) -> Self {
        let module = template.replace("{}", &layer.to_string());
        if module.ends_with(".weight") { Self(module) } else { Self(format!("{module}.weight")) }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ParamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<&str> for ParamName {
    fn from(name: &str) -> Self {
        Self(name.to_owned())
    }
}

/// A place in a transformer block where activations can be read or replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Module {
    /// The token (and learned position) embeddings that enter layer 0 of a stack; its [`Site::layer`] is 0.
    Embedding,
    /// The residual stream as it enters the block.
    BlockInput,
    /// The attention's output, before it joins the residual stream.
    AttentionOutput,
    /// The output of the attention to an encoder, before it joins the residual stream; decoders of encoder-decoders alone have it.
    CrossAttentionOutput,
    /// The input of the MLP's out-projection: the key k of the locate-then-edit methods. Width `d_mlp`.
    MlpKey,
    /// The MLP's output, before it joins the residual stream: the value v of the locate-then-edit methods.
    MlpOutput,
    /// The residual stream as it leaves the block.
    BlockOutput,
}

/// A [`Module`] of one layer of a [`Stack`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Site {
    /// The stack of the layer.
    #[serde(default)]
    pub stack: Stack,
    /// Layer, counted from 0 in its stack.
    pub layer: usize,
    /// Place inside the layer.
    pub module: Module,
}

impl Site {
    /// The place `module` of the decoder's layer `layer`.
    pub const fn new(layer: usize, module: Module) -> Self {
        Self::in_stack(Stack::Decoder, layer, module)
    }

    /// The place `module` of layer `layer` of a stack.
    pub const fn in_stack(stack: Stack, layer: usize, module: Module) -> Self {
        Self { stack, layer, module }
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.stack != Stack::Decoder {
            write!(f, "{} ", self.stack)?;
        }
        write!(f, "layer {} {:?}", self.layer, self.module)
    }
}
