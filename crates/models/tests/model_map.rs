//! The model map, and the hook of linear maps that it names: kept by tiny random models of every family, decoders and encoders.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::BTreeMap;

use burn::tensor::{Tensor, TensorData};
use common::{assert_close, largest_difference, values};
use easyedit_core::{
    LanguageModel, LinearRole, Module, ParamName, Parameter, ParameterRole, Pass, Probe, Site, Stack, TokenBatch, WeightLayout,
};
use easyedit_models::families;
use easyedit_models::tiny::{tiny_config, tiny_model_from};
use serde_json::{Value, json};

/// The types of every family, and forms that differ in their linear maps or in how attention knows positions.
fn models(seed: u64) -> Vec<(String, Box<dyn LanguageModel>)> {
    let device = easyedit_core::device::select("cpu").unwrap();
    let types = families().iter().flat_map(|family| family.model_types.iter().copied());
    let mut configs: Vec<(String, Value)> = types.map(|name| (name.to_owned(), tiny_config(name).unwrap())).collect();
    let mut variant = |family: &str, key: &str, value: Value| {
        let mut config = tiny_config(family).unwrap();
        config.as_object_mut().unwrap().insert(key.to_owned(), value);
        configs.push((format!("{family} with {key}"), config));
    };
    variant("gpt_neox", "use_parallel_residual", json!(false));
    variant("gptj", "tie_word_embeddings", json!(true));
    variant("llama", "mlp_bias", json!(true));
    variant("chatglm", "post_layer_norm", json!(false));
    variant("opt", "layer_norm_elementwise_affine", json!(false));
    let mut alibi = tiny_config("baichuan").unwrap();
    let keys = alibi.as_object_mut().unwrap();
    keys.remove("max_position_embeddings");
    keys.insert("model_max_length".to_owned(), json!(64));
    configs.push(("baichuan with ALiBi".to_owned(), alibi));
    let smooth = |mut config: Value| {
        // Differences across the kinks of a function are no derivatives.
        for key in ["activation_function", "feed_forward_proj"] {
            if config[key] == "relu" {
                config[key] = json!("gelu_new");
            }
        }
        config
    };
    configs.into_iter().map(|(name, config)| (name, tiny_model_from(smooth(config), seed, &device).unwrap())).collect()
}

fn sources() -> Vec<Vec<u32>> {
    vec![vec![5, 6, 7], (0..9).map(|i| i * 23 % 257).collect(), (0..6).map(|i| 250 - i).collect()]
}

fn rows() -> Vec<Vec<u32>> {
    vec![(0..9).map(|i| i * 31 % 257).collect(), vec![256, 9, 8, 7], vec![256, 70]]
}

/// All logits of the rows, under a probe of both stacks: `[tokens, vocab_size]`.
fn logits(model: &dyn LanguageModel, probe: &mut dyn Probe) -> Tensor<2> {
    let batch = TokenBatch::new(&rows()).unwrap();
    let positions: Vec<usize> = (0..batch.tokens()).collect();
    let mut pass = Pass::new(batch, &model.device());
    if let Some(encoder) = model.encoder() {
        pass = pass.reading(encoder.encode(&TokenBatch::new(&sources()).unwrap(), probe).unwrap()).unwrap();
    }
    let hidden = model.hidden(&mut pass, probe).unwrap();
    model.logits(hidden, &positions).unwrap()
}

/// Fixed weights of the logits in a loss, between -1 and 1.
fn directions(count: usize) -> Vec<f32> {
    (0..count).map(|i| (i as f32 * 1.7).sin()).collect()
}

/// The loss, to be differentiated.
fn loss(logits: Tensor<2>) -> Tensor<1> {
    let shape = logits.dims();
    let directions = TensorData::new(directions(shape[0] * shape[1]), shape);
    (logits * Tensor::<2>::from_data(directions, &easyedit_core::device::select("cpu").unwrap())).sum()
}

/// The loss, summed in double precision: differences of it are divided by small steps.
fn exact_loss(logits: &Tensor<2>) -> f64 {
    let logits = values(logits);
    logits.iter().zip(directions(logits.len())).map(|(logit, direction)| f64::from(*logit) * f64::from(direction)).sum()
}

/// Values that look random: `[rows, cols]`, between -`size` and `size`.
fn noise(shape: [usize; 2], seed: usize, size: f32) -> Tensor<2> {
    let values: Vec<f32> = (0..shape[0] * shape[1]).map(|i| size * ((i * i * 7919 + i * 31 + seed * 104_729) as f32 * 0.7).sin()).collect();
    Tensor::from_data(TensorData::new(values, shape), &easyedit_core::device::select("cpu").unwrap())
}

/// `x` times a weight that is stored in `layout`.
fn times(x: Tensor<2>, weight: Tensor<2>, layout: WeightLayout) -> Tensor<2> {
    match layout {
        WeightLayout::OutIn => x.matmul(weight.transpose()),
        WeightLayout::InOut => x.matmul(weight),
    }
}

fn linear_names(model: &dyn LanguageModel) -> Vec<ParamName> {
    model.spec().map.iter().filter(|parameter| parameter.linear_role().is_some()).map(|parameter| parameter.name.clone()).collect()
}

/// Keeps input and output of every linear map.
#[derive(Default)]
struct LinearCapture {
    seen: Vec<(ParamName, Tensor<2>, Tensor<2>)>,
}

impl Probe for LinearCapture {
    fn at(&mut self, _: Site, activations: Tensor<2>) -> Tensor<2> {
        activations
    }

    fn wants_linear(&self, _: &Parameter) -> bool {
        true
    }

    fn linear(&mut self, parameter: &Parameter, input: &Tensor<2>, output: Tensor<2>) -> Tensor<2> {
        self.seen.push((parameter.name.clone(), input.clone(), output.clone()));
        output
    }
}

/// Adds to the output of one linear map.
struct Add<F> {
    name: ParamName,
    change: F,
}

impl<F: FnMut(&Tensor<2>, Tensor<2>) -> Tensor<2>> Probe for Add<F> {
    fn at(&mut self, _: Site, activations: Tensor<2>) -> Tensor<2> {
        activations
    }

    fn wants_linear(&self, parameter: &Parameter) -> bool {
        parameter.name == self.name
    }

    fn linear(&mut self, parameter: &Parameter, input: &Tensor<2>, output: Tensor<2>) -> Tensor<2> {
        assert_eq!(parameter.name, self.name, "a map that was not asked for");
        (self.change)(input, output)
    }
}

#[test]
fn the_map_lists_the_parameters_of_the_model() {
    for (family, model) in models(1) {
        let spec = model.spec();
        let listed: Vec<ParamName> = spec.map.iter().map(|parameter| parameter.name.clone()).collect();
        assert_eq!(listed, model.parameter_names(), "{family}");
        for parameter in spec.map.iter() {
            let Parameter { name, stack, layer, role, layout, shape, .. } = parameter;
            assert_eq!(model.weight(name).unwrap().dims(), *shape, "{family}: {name}");
            assert_eq!(spec.parameter(name).unwrap(), parameter, "{family}");
            assert_eq!(spec.name_of(*stack, *layer, *role), Some(name), "{family}");
            assert!(layer.is_none_or(|layer| layer < spec.n_layers_of(*stack)), "{family}: {name}");
            let is_product = matches!(role, ParameterRole::Linear(_) | ParameterRole::Head);
            let is_tied = spec.tied_head && *role == ParameterRole::TokenEmbedding;
            assert_eq!(layout.is_some(), is_product || is_tied, "{family}: {name}");
            assert_eq!(parameter.is_matrix(), shape[0] > 1, "{family}: {name}");
        }
        for stack in [Stack::Decoder, Stack::Encoder] {
            for layer in 0..spec.n_layers_of(stack) {
                let role = ParameterRole::Linear(LinearRole::MlpOut);
                let name = spec.name_of(stack, Some(layer), role).unwrap();
                let template = ParamName::weight_of(spec.mlp_out_of(stack).unwrap(), layer);
                assert_eq!((name, spec.map.get(name).unwrap().widths().unwrap()), (&template, [spec.d_mlp, spec.d_model]), "{family}");
            }
        }
        let name = spec.mlp_out_weight(1);
        let typo = ParamName::new(name.as_str().replace("weight", "weigth"));
        let message = spec.parameter(&typo).unwrap_err().to_string();
        assert!(message.contains(&format!("did you mean {name}")), "{message}");
    }
}

#[test]
fn inputs_times_the_weight_are_the_outputs_of_every_linear_map() {
    for (family, model) in models(2) {
        let mut capture = LinearCapture::default();
        let seen_logits = values(&logits(&*model, &mut capture));
        assert_eq!(seen_logits, values(&logits(&*model, &mut ())), "{family}: a probe that looks changes nothing");
        let mut seen: Vec<ParamName> = capture.seen.iter().map(|(name, ..)| name.clone()).collect();
        let mut want = linear_names(&*model);
        seen.sort();
        want.sort();
        assert_eq!(seen, want, "{family}: each map once");
        for (name, input, output) in capture.seen {
            let layout = model.spec().parameter(&name).unwrap().matrix_layout().unwrap();
            let product = times(input, model.weight(&name).unwrap(), layout);
            assert_close(&values(&product), &values(&output), 1e-5, &format!("{family}: {name}"));
        }
    }
}

#[test]
fn keys_are_the_inputs_of_the_out_projections() {
    /// Keeps both.
    #[derive(Default)]
    struct Keys(BTreeMap<(Stack, usize), Vec<Vec<f32>>>);
    impl Probe for Keys {
        fn at(&mut self, site: Site, activations: Tensor<2>) -> Tensor<2> {
            if site.module == Module::MlpKey {
                self.0.entry((site.stack, site.layer)).or_default().push(values(&activations));
            }
            activations
        }

        fn wants_linear(&self, parameter: &Parameter) -> bool {
            parameter.linear_role() == Some(LinearRole::MlpOut)
        }

        fn linear(&mut self, parameter: &Parameter, input: &Tensor<2>, output: Tensor<2>) -> Tensor<2> {
            self.0.entry((parameter.stack, parameter.layer.unwrap())).or_default().push(values(input));
            output
        }
    }
    for (family, model) in models(3) {
        let mut keys = Keys::default();
        logits(&*model, &mut keys);
        assert_eq!(keys.0.len(), model.spec().n_layers + model.spec().n_layers_of(Stack::Encoder));
        assert!(keys.0.values().all(|seen| seen.len() == 2 && seen[0] == seen[1]), "{family}");
    }
}

#[test]
fn gradients_by_the_outputs_of_linear_maps_match_finite_differences() {
    /// Length of the step of a difference.
    const STEP: f32 = 3e-2;
    for (family, model) in models(4) {
        for (number, name) in linear_names(&*model).into_iter().enumerate() {
            // Each map of one layer of each stack: a layer has them all.
            let parameter = model.spec().parameter(&name).unwrap();
            if parameter.layer != Some(number % 3) {
                continue;
            }
            let mut zero = None;
            let mut probe = Add {
                name: name.clone(),
                change: |_: &Tensor<2>, output: Tensor<2>| {
                    let tracked = Tensor::from_inner(output.clone().zeros_like()).require_grad();
                    zero = Some(tracked.clone());
                    Tensor::from_inner(output) + tracked
                },
            };
            let gradients = loss(logits(&*model, &mut probe)).backward();
            let zero = zero.unwrap();
            let gradient = values(&zero.grad(&gradients).unwrap());
            let shape = zero.dims();
            // Along the gradient's sign pattern of a few coordinates the difference is well above rounding.
            let chosen = |i: usize| (i * 7919 + number).is_multiple_of(5);
            let direction: Vec<f32> = gradient.iter().enumerate().map(|(i, g)| if chosen(i) { g.signum() } else { 0.0 }).collect();
            let want: f64 = gradient.iter().zip(&direction).map(|(g, d)| f64::from(g * d)).sum();
            let norm = direction.iter().map(|d| d * d).sum::<f32>().sqrt().max(1.0);
            let direction = Tensor::<2>::from_data(TensorData::new(direction, shape), &model.device());
            let at = |step: f32| {
                let mut probe = Add { name: name.clone(), change: |_: &Tensor<2>, output: Tensor<2>| output + direction.clone() * step };
                exact_loss(&logits(&*model, &mut probe))
            };
            let step = STEP / norm;
            // Of fourth order, so that the step may be large.
            let slope = (8.0 * (at(step) - at(-step)) - (at(2.0 * step) - at(-2.0 * step))) / (12.0 * f64::from(step));
            assert!((slope - want).abs() <= 1e-3 * want.abs() + 1e-3, "{family}: {name}: {want} by gradient, {slope} by differences");
        }
    }
}

#[test]
fn a_low_rank_change_through_the_hook_is_the_changed_weight() {
    for (family, model) in models(5) {
        let plain = values(&logits(&*model, &mut ()));
        for (number, name) in linear_names(&*model).into_iter().enumerate() {
            let parameter = model.spec().parameter(&name).unwrap();
            let [d_in, d_out] = parameter.widths().unwrap();
            let (a, b) = (noise([d_in, 2], number, 0.2), noise([2, d_out], number + 1, 0.2));
            let change = a.clone().matmul(b.clone());
            let change = match parameter.matrix_layout().unwrap() {
                WeightLayout::OutIn => change.transpose(),
                WeightLayout::InOut => change,
            };
            let mut changed = model.clone();
            changed.set_weight(&name, model.weight(&name).unwrap() + change).unwrap();
            let want = values(&logits(&*changed, &mut ()));
            let mut probe =
                Add { name: name.clone(), change: |input: &Tensor<2>, output| output + input.clone().matmul(a.clone()).matmul(b.clone()) };
            let got = values(&logits(&*model, &mut probe));
            assert_close(&got, &want, 1e-5 * largest_difference(&want, &vec![0.0; want.len()]).max(1.0), &format!("{family}: {name}"));
            assert!(largest_difference(&plain, &want) > 1e-4, "{family}: {name} does not matter");
        }
    }
}

#[test]
fn two_probes_act_one_after_the_other() {
    for (family, model) in models(6) {
        let names = linear_names(&*model);
        let (first, last) = (names[0].clone(), names[names.len() - 1].clone());
        let shift = |name: &ParamName, by: f32| Add { name: name.clone(), change: move |_: &Tensor<2>, output: Tensor<2>| output + by };
        let both = values(&logits(&*model, &mut (shift(&first, 0.5), shift(&first, -0.5))));
        assert_close(&both, &values(&logits(&*model, &mut ())), 1e-4, &family);
        let apart = values(&logits(&*model, &mut (shift(&first, 0.5), shift(&last, 0.25))));
        let mut second = shift(&first, 0.5);
        let nested = values(&logits(&*model, &mut (shift(&last, 0.25), &mut second)));
        assert_eq!(apart, nested, "{family}");
    }
}
