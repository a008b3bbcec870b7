use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{Error, ParamName, Result, WeightLayout, WeightType, nearest_name};

/// One of a model's stacks of blocks. Layers are counted from 0 in each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Stack {
    /// The stack that predicts tokens; the only one of a decoder-only model.
    #[default]
    Decoder,
    /// The encoder of an encoder-decoder.
    Encoder,
}

impl fmt::Display for Stack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Decoder => "decoder",
            Self::Encoder => "encoder",
        })
    }
}

/// What a linear map of a block computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum LinearRole {
    /// Queries of the self-attention.
    Query,
    /// Its keys.
    Key,
    /// Its values.
    Value,
    /// Queries, keys and values from one weight, in the order of the family.
    FusedQkv,
    /// The projection of the heads back to the residual stream.
    AttentionOut,
    /// Queries of the attention to an encoder.
    CrossQuery,
    /// Its keys; reads the encoder's output.
    CrossKey,
    /// Its values; reads the encoder's output.
    CrossValue,
    /// The projection of its heads back to the residual stream.
    CrossOut,
    /// The in-projection of an MLP without a gate.
    MlpIn,
    /// The branch of a gated MLP that the activation function is applied to.
    MlpGate,
    /// The branch of a gated MLP that is multiplied with the gate.
    MlpUp,
    /// Gate and up from one weight, the gate first.
    FusedMlpIn,
    /// The out-projection of the MLP, whose input is [`Module::MlpKey`](crate::Module::MlpKey).
    MlpOut,
}

impl LinearRole {
    /// Whether its output holds queries or values of an attention: the usual targets of adapters.
    pub fn is_query_or_value(self) -> bool {
        matches!(self, Self::Query | Self::Value | Self::FusedQkv | Self::CrossQuery | Self::CrossValue)
    }
}

/// Which norm a parameter belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum NormRole {
    /// Of the embeddings, before the first block.
    Embedding,
    /// Of the self-attention; of the MLP as well where the two share a norm.
    Attention,
    /// Of the attention to an encoder.
    CrossAttention,
    /// Of the MLP.
    Mlp,
    /// Behind the last block.
    Final,
}

/// What a parameter is for. Stack, layer and role together name one parameter of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ParameterRole {
    /// The weight of a linear map of a block.
    Linear(LinearRole),
    /// The bias of a linear map of a block.
    LinearBias(LinearRole),
    /// The weight of a norm.
    NormWeight(NormRole),
    /// The bias of a norm.
    NormBias(NormRole),
    /// The embedding of the tokens, of a tied head the head as well. An embedding that two stacks share is the decoder's.
    TokenEmbedding,
    /// The table of learned positions.
    PositionTable,
    /// The table of segments of a text encoder.
    SegmentTable,
    /// The table of attention biases by distance. It belongs to the layer that holds it, and serves all layers.
    RelativeBias,
    /// The head, where it is no embedding.
    Head,
    /// The bias of the head.
    HeadBias,
}

/// One parameter of a model, without its values.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parameter {
    /// Its name in the checkpoint.
    pub name: ParamName,
    /// The stack it belongs to.
    pub stack: Stack,
    /// The block that holds it, counted from 0; `None` outside of blocks.
    pub layer: Option<usize>,
    /// What it is for.
    pub role: ParameterRole,
    /// How the matrix is stored: of linear maps, of the head, and of an embedding that is the head as well. `None` for all others.
    pub layout: Option<WeightLayout>,
    /// Its shape as [`LanguageModel::weight`](crate::LanguageModel::weight) returns it: a vector is one row.
    pub shape: [usize; 2],
    /// The type its checkpoint stores it in. A matrix is kept in it until it is replaced.
    #[serde(default)]
    pub dtype: WeightType,
}

impl Parameter {
    /// The role of a linear map's weight; `None` for any other parameter.
    pub fn linear_role(&self) -> Option<LinearRole> {
        match self.role {
            ParameterRole::Linear(role) => Some(role),
            _ => None,
        }
    }

    /// Whether it is a matrix: the weight of a linear map, a table or a head. Weights of norms and biases are vectors.
    pub fn is_matrix(&self) -> bool {
        use ParameterRole::{HeadBias, LinearBias, NormBias, NormWeight};
        !matches!(self.role, LinearBias(_) | NormWeight(_) | NormBias(_) | HeadBias)
    }

    /// How the matrix is stored.
    ///
    /// # Errors
    ///
    /// [`Error::Tensor`] if activations are not multiplied with it.
    pub fn matrix_layout(&self) -> Result<WeightLayout> {
        self.layout.ok_or_else(|| Error::tensor(self.name.as_str(), "is not the weight of a linear map"))
    }

    /// Widths of input and output, `[in, out]`, of a matrix that activations are multiplied with.
    pub fn widths(&self) -> Option<[usize; 2]> {
        let [rows, cols] = self.shape;
        Some(match self.layout? {
            WeightLayout::OutIn => [cols, rows],
            WeightLayout::InOut => [rows, cols],
        })
    }
}

/// Every parameter of a model: what it is for, where it belongs, how it is stored. Made once, when the model is loaded.
///
/// Clones share the table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<Parameter>", into = "Vec<Parameter>")]
pub struct ModelMap(Arc<Table>);

/// Stack, layer and role: what names a parameter in every family.
type Place = (Stack, Option<usize>, ParameterRole);

#[derive(Debug, Default, PartialEq, Eq)]
struct Table {
    parameters: Vec<Arc<Parameter>>,
    by_name: BTreeMap<ParamName, Arc<Parameter>>,
    by_place: BTreeMap<Place, Arc<Parameter>>,
}

impl ModelMap {
    /// The map of these parameters, in the order in which the model lists them.
    ///
    /// # Errors
    ///
    /// [`Error::Tensor`] if two have the same name, or the same stack, layer and role.
    pub fn new<P: Into<Arc<Parameter>>>(parameters: impl IntoIterator<Item = P>) -> Result<Self> {
        let mut table = Table::default();
        for parameter in parameters {
            let parameter: Arc<Parameter> = parameter.into();
            let Parameter { name, stack, layer, role, .. } = &*parameter;
            if table.by_name.insert(name.clone(), parameter.clone()).is_some() {
                return Err(Error::tensor(name.as_str(), "is listed twice"));
            }
            if let Some(other) = table.by_place.insert((*stack, *layer, *role), parameter.clone()) {
                return Err(Error::tensor(name.as_str(), format!("has the stack, layer and role of {}", other.name)));
            }
            table.parameters.push(parameter);
        }
        Ok(Self(Arc::new(table)))
    }

    /// The parameter called `name`.
    pub fn get(&self, name: &ParamName) -> Option<&Parameter> {
        self.0.by_name.get(name).map(|parameter| &**parameter)
    }

    /// The parameter of `stack` with this role, in block `layer` or outside of all blocks.
    pub fn at(&self, stack: Stack, layer: Option<usize>, role: ParameterRole) -> Option<&Parameter> {
        self.0.by_place.get(&(stack, layer, role)).map(|parameter| &**parameter)
    }

    /// All parameters, in the order of [`LanguageModel::parameter_names`](crate::LanguageModel::parameter_names).
    pub fn iter(&self) -> impl Iterator<Item = &Parameter> {
        self.0.parameters.iter().map(|parameter| &**parameter)
    }

    /// The name nearest to one that is unknown.
    pub(crate) fn nearest(&self, name: &ParamName) -> Option<&str> {
        nearest_name(name.as_str(), self.iter().map(|parameter| parameter.name.as_str()))
    }
}

impl TryFrom<Vec<Parameter>> for ModelMap {
    type Error = Error;

    fn try_from(parameters: Vec<Parameter>) -> Result<Self> {
        Self::new(parameters)
    }
}

impl From<ModelMap> for Vec<Parameter> {
    fn from(map: ModelMap) -> Self {
        map.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameter(name: &str, layer: usize, role: LinearRole) -> Parameter {
        Parameter {
            name: name.into(),
            stack: Stack::Decoder,
            layer: Some(layer),
            role: ParameterRole::Linear(role),
            layout: Some(WeightLayout::InOut),
            shape: [3, 5],
            dtype: WeightType::F32,
        }
    }

    #[test]
    fn parameters_are_found_by_name_and_by_place() {
        let map = ModelMap::new([parameter("b.0.v", 0, LinearRole::Value), parameter("b.1.v", 1, LinearRole::Value)]).unwrap();
        let name = ParamName::from("b.1.v");
        let found = map.get(&name).unwrap();
        assert_eq!((found.layer, found.widths(), found.matrix_layout().unwrap()), (Some(1), Some([3, 5]), WeightLayout::InOut));
        assert_eq!(map.at(Stack::Decoder, Some(1), found.role).unwrap().name, name);
        assert!(map.at(Stack::Encoder, Some(1), found.role).is_none() && map.get(&"b.2.v".into()).is_none());
        assert_eq!(map.nearest(&"b.1.w".into()), Some("b.1.v"));
    }

    #[test]
    fn names_and_places_are_unique() {
        let first = parameter("a", 0, LinearRole::Key);
        let same_name = ModelMap::new([first.clone(), parameter("a", 1, LinearRole::Key)]).unwrap_err().to_string();
        let same_place = ModelMap::new([first, parameter("b", 0, LinearRole::Key)]).unwrap_err().to_string();
        assert!(same_name.contains("twice") && same_place.contains("role of a"), "{same_name}, {same_place}");
    }

    #[test]
    fn a_map_is_written_as_a_list() {
        let map = ModelMap::new([parameter("b.0.v", 0, LinearRole::Value)]).unwrap();
        let text = serde_json::to_string(&map).unwrap();
        assert!(text.starts_with('[') && text.contains(r#""role":{"linear":"value"}"#), "{text}");
        assert_eq!(serde_json::from_str::<ModelMap>(&text).unwrap(), map);
    }
}
