use easyedit_core::Tokenizer;
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, NormalizerWrapper, PostProcessorWrapper, TokenizerBuilder};

use crate::{Error, Result};

/// The token that fills up rows, and starts a decoder that reads an encoder. Its id is 0.
pub(crate) const PAD: &str = "<pad>";
/// The token that ends a text. Its id is 1.
pub(crate) const END: &str = "</s>";
/// Id of [`PAD`].
pub(crate) const PAD_ID: u32 = 0;
/// Id of [`END`].
pub(crate) const END_ID: u32 = 1;
/// Number of tokens.
pub(crate) const VOCABULARY: usize = 1024;

/// What stands around a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Around {
    Nothing,
    End,
    BothEnds,
}

/// Trains a byte-level BPE tokenizer on `text`. A text gets a space before its first word, so that a name is the same tokens at the
/// start of a sentence and within. `around`: the end token stands behind every text, as encoder-decoders are
/// trained, or on both sides, for encoders that gather a text in its first token.
pub(crate) fn train(text: &[String], around: Around) -> Result<tokenizers::Tokenizer> {
    let failed = |e: tokenizers::Error| Error::Tokenizer(e.to_string());
    let special = [AddedToken::from(PAD, true), AddedToken::from(END, true)];
    let mut trainer = BpeTrainerBuilder::new()
        .show_progress(false)
        .vocab_size(VOCABULARY)
        .min_frequency(2)
        .special_tokens(special.to_vec())
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    let byte_level = ByteLevel::new(true, false, true);
    let processor = if let Around::Nothing = around {
        PostProcessorWrapper::ByteLevel(byte_level)
    } else {
        let template = TemplateProcessing::builder()
            .try_single(match around {
                Around::BothEnds => format!("{END} $A {END}"),
                _ => format!("$A {END}"),
            })
            .map_err(Error::Tokenizer)?
            .special_tokens(vec![(END, END_ID)])
            .build()
            .map_err(|e| Error::Tokenizer(e.to_string()))?;
        PostProcessorWrapper::Template(template)
    };
    let mut tokenizer = TokenizerBuilder::<BPE, NormalizerWrapper, ByteLevel, PostProcessorWrapper, ByteLevel>::new()
        .with_model(BPE::default())
        .with_normalizer(None)
        .with_pre_tokenizer(Some(byte_level))
        .with_post_processor(Some(processor))
        .with_decoder(Some(byte_level))
        .build()
        .map_err(failed)?;
    tokenizer.train(&mut trainer, text.iter().map(String::as_str)).map_err(failed)?;
    serde_json::to_string(&tokenizer).map_err(|e| Error::Tokenizer(e.to_string()))?.parse().map_err(failed)
}

/// The tokenizer as models use it.
pub(crate) fn wrap(tokenizer: tokenizers::Tokenizer) -> Tokenizer {
    Tokenizer::new(tokenizer, vec![END_ID])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Sentence, World};

    #[test]
    fn the_ids_of_special_tokens_and_the_spans_of_words_are_right() {
        let text: Vec<String> = World::new(1).sentences().iter().map(Sentence::text).collect();
        let plain = wrap(train(&text, Around::Nothing).unwrap());
        let ended = wrap(train(&text, Around::End).unwrap());
        assert_eq!(plain.inner().token_to_id(PAD), Some(PAD_ID));
        assert_eq!(plain.inner().token_to_id(END), Some(END_ID));
        assert_eq!(plain.vocab_size(), VOCABULARY);
        let sentence = "The capital of Norland is Tarnholm.";
        let a = plain.encode(sentence).unwrap();
        let b = ended.inner().encode(sentence, true).unwrap().get_ids().to_vec();
        assert_eq!(b, [a.ids.as_slice(), &[END_ID]].concat());
        assert_eq!(plain.decode(&a.ids).unwrap().trim_start(), sentence);
        let start = sentence.find("Norland").unwrap();
        let covering = a.spans.iter().filter(|s| s.start < start + 7 && s.end > start).count();
        assert!((1..4).contains(&covering), "{:?}", a.spans);
        assert_eq!(a.spans.last().unwrap().end, sentence.len());
        // A name is the same tokens at the start of a text and within.
        let name = plain.encode("Norland").unwrap().ids;
        assert!(a.ids.windows(name.len()).any(|w| w == name));
    }
}
