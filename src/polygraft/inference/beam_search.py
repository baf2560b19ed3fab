"""Beam search as `model.generate` does it, but with work left out that does not change the outcome (mBART only).

- Beams are the *positions* of one document, not documents of their own: a mask says which of the earlier keys are a
  beam's own past. So a document's cross-attention keys and values exist once, and no cache is ever reordered.
- The output matrix is multiplied in slices, of which only the best candidates are kept: no [beams, vocabulary] logits.
- Forced tokens are not computed, and the first step has one beam instead of `num_beams` equal ones.
- A document whose outcome is settled leaves the batch.

Reference: transformers/generation/utils.py, `_beam_search`; tests/inference/test_beam_search.py compares the two.

B documents, K beams, N of them returned, S source positions, T tokens so far, Q queries, P keys so far, R rows = B * K,
C candidates, D width, V vocabulary.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, EncoderDecoderCache, GenerationConfig, MBartForConditionalGeneration

# What `generate` takes for settings that nobody has made, of those that are implemented here.
DEFAULTS = {
    "num_beams": 1, "num_return_sequences": 1, "length_penalty": 1.0, "early_stopping": False,
    "no_repeat_ngram_size": 0,
}  # fmt: skip
READ = {
    *DEFAULTS, "max_new_tokens", "decoder_start_token_id", "forced_bos_token_id", "forced_eos_token_id",
    "eos_token_id", "pad_token_id",
}  # fmt: skip
WITHOUT_EFFECT = {
    "max_length", "bos_token_id", "use_cache", "transformers_version", "_from_model_config",
    "temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff",
}  # fmt: skip
"""Overruled by `max_new_tokens` and `decoder_start_token_id`, of no consequence for the outcome, or for sampling."""
NEUTRAL = {"repetition_penalty": 1.0, "encoder_repetition_penalty": 1.0}
ROWS_PER_SLICE = 2048  # on a CPU: logits of 128 beams stay in the cache; 1.6 times as fast as the whole product


def generate(model: Any, input_ids_BS: Tensor, attention_mask_BS: Tensor, **settings: Any) -> Tensor:
    """Return what `model.generate(input_ids=…, attention_mask=…, **settings)` does: [B * N, T] int64, padded.

    N is `num_return_sequences`; those of a document follow each other, the best first.

    Equal token ids up to rounding: the sums are those of another batch's shapes. The plain `generate` itself is called
    for every model but mBART, and where the settings or the checkpoint's generation_config.json ask for more than beam
    search or greedy search with the settings in `READ`.
    """
    config = merged(model, settings)
    if can_search(model, config):
        return Search(model, input_ids_BS, attention_mask_BS, config).run()
    return model.generate(input_ids=input_ids_BS, attention_mask=attention_mask_BS, **settings)


def merged(model: Any, settings: dict[str, Any]) -> GenerationConfig:
    """The settings given, else the checkpoint's, else the defaults."""
    config = copy.deepcopy(model.generation_config)
    config.update(**settings)
    config.update(**DEFAULTS, defaults_only=True)
    return config


def can_search(model: Any, config: GenerationConfig) -> bool:
    """Whether `Search` implements this model with all of these settings."""
    if type(model) is not MBartForConditionalGeneration or type(model.lm_head) is not nn.Linear:
        return False
    if model.config._attn_implementation not in ("sdpa", "eager"):  # others do not take a mask per beam
        return False
    others = {name: value for name, value in config.to_dict().items() if name not in READ | WITHOUT_EFFECT}
    if any(value and value != NEUTRAL.get(name) for name, value in others.items()):
        return False
    needed = (config.max_new_tokens, config.decoder_start_token_id, config.eos_token_id, config.pad_token_id)
    forced = (config.forced_bos_token_id, config.forced_eos_token_id)
    if not all(isinstance(number, int) for number in (*needed, *(token for token in forced if token is not None))):
        return False
    return config.max_new_tokens > 1 and config.num_return_sequences <= config.num_beams


class Decoder:
    """mBART's decoder over the beams of a shrinking batch of documents."""

    def __init__(self, model: MBartForConditionalGeneration, input_ids_BS: Tensor, attention_mask_BS: Tensor) -> None:
        self.model, self.decoder = model, model.get_decoder()
        self.encoded_BSD = model.get_encoder()(input_ids=input_ids_BS, attention_mask=attention_mask_BS)[0]
        self.source_B11S = _additive(attention_mask_BS[:, None, None].bool(), self.encoded_BSD.dtype)
        self.cache = EncoderDecoderCache(DynamicCache(), DynamicCache())

    def step(self, tokens_BQ: Tensor, positions_Q: Tensor, seen_BQP: Tensor) -> Tensor:
        """Return hidden states [B, Q, D]; `positions_Q` has one value if it is all the queries'."""
        decoder: Any = self.decoder
        hidden_BQD = decoder.embed_tokens(tokens_BQ) + decoder.embed_positions(tokens_BQ, position_ids=positions_Q)
        hidden_BQD = decoder.layernorm_embedding(hidden_BQD)
        seen_B1QP = _additive(seen_BQP[:, None], hidden_BQD.dtype)
        source_B1QS = self.source_B11S.expand(-1, -1, tokens_BQ.shape[1], -1)
        for layer in decoder.layers:
            hidden_BQD = layer(
                hidden_BQD,
                seen_B1QP,
                self.encoded_BSD,  # read in the first step only; later the cache has its keys and values
                encoder_attention_mask=source_B1QS,
                past_key_values=self.cache,
            )
        return decoder.layer_norm(hidden_BQD)

    def candidates(self, hidden_RD: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Return log probabilities (fp32) and ids of the `count` most probable next tokens, each [R, C], best first."""
        weight_VD, bias_V = self.model.lm_head.weight, self.model.final_logits_bias[0]
        width = ROWS_PER_SLICE if hidden_RD.device.type == "cpu" else len(weight_VD)
        sums, values, tokens = [], [], []
        for start in range(0, len(weight_VD), width):
            some = slice(start, start + width)
            logits_RV = nn.functional.linear(hidden_RD, weight_VD[some], bias_V[some]).float()
            best = logits_RV.topk(min(count, logits_RV.shape[1]))
            sums.append(logits_RV.logsumexp(dim=1))
            values.append(best.values)
            tokens.append(best.indices + start)
        best = torch.cat(values, dim=1).topk(count)
        total_R1 = torch.stack(sums, dim=1).logsumexp(dim=1, keepdim=True)
        return best.values - total_R1, torch.cat(tokens, dim=1).gather(1, best.indices)

    def keep(self, documents: Tensor) -> None:
        """Go on with these documents of the batch only."""
        self.cache.batch_select_indices(documents)
        self.source_B11S = self.source_B11S[documents]


class Search:
    """The search over one batch, with settings that `can_search` has approved.

    Tensors with a leading B have a row per document that is not settled yet, and `rows_B` says which of the batch it
    is. Sequences begin with the decoder's start token. Ended hypotheses are the best K so far, padded to L tokens.
    """

    def __init__(self, model: Any, input_ids_BS: Tensor, attention_mask_BS: Tensor, config: Any) -> None:
        device, documents = input_ids_BS.device, len(input_ids_BS)
        self.config, self.beams, self.limit = config, config.num_beams, 1 + config.max_new_tokens
        self.returned = config.num_return_sequences
        self.decoder = Decoder(model, input_ids_BS, attention_mask_BS)
        self.outputs_BNL = torch.full((documents, self.returned, self.limit), config.pad_token_id, device=device)
        self.rows_B = torch.arange(documents, device=device)
        prompt = [token for token in (config.decoder_start_token_id, config.forced_bos_token_id) if token is not None]
        # Until a token is chosen freely all beams are the same one.
        self.sequences_BKT = torch.tensor([[prompt]], device=device).repeat(documents, 1, 1)
        self.scores_BK = torch.zeros(documents, 1, device=device)
        self.tokens_BQ, self.computed = self.sequences_BKT[:, 0], 0  # tokens and positions not yet, and already decoded
        self.seen_BQP = torch.ones(len(prompt), len(prompt), device=device).bool().tril().repeat(documents, 1, 1)
        self.ended_BKL = self.outputs_BNL[:, :1].repeat(1, self.beams, 1)
        self.ended_scores_BK = torch.full((documents, self.beams), -torch.inf, device=device)

    @property
    def length(self) -> int:
        """Tokens of every running beam."""
        return self.sequences_BKT.shape[2]

    def run(self) -> Tensor:
        """Return the best sequences of each document, [B * N, T] int64, padded."""
        while len(self.rows_B):
            last = self.length + 1 == self.limit
            forced = self.config.forced_eos_token_id if last else None
            total_BC, parents_BC, tokens_BC = self.proposed() if forced is None else self.all_with(forced)
            longer_BCT = torch.cat([_pick(self.sequences_BKT, parents_BC), tokens_BC[:, :, None]], dim=2)
            ends_BC = (tokens_BC == self.config.eos_token_id) | last
            self.end(longer_BCT, total_BC.masked_fill(~ends_BC, -torch.inf))
            if last:
                self.outputs_BNL[self.rows_B] = self.ended_BKL[:, : self.returned]
                break
            self.go_on(longer_BCT, total_BC.masked_fill(ends_BC, -torch.inf), parents_BC)
            self.settle()
        return self.outputs_BNL.flatten(0, 1)[:, : longer_BCT.shape[2]]

    def all_with(self, token: int) -> tuple[Tensor, Tensor, Tensor]:
        """The candidates where the next token is forced, so has probability 1."""
        beams_BC = torch.arange(self.scores_BK.shape[1], device=self.scores_BK.device).expand_as(self.scores_BK)
        return self.scores_BK, beams_BC, torch.full_like(beams_BC, token)

    def proposed(self) -> tuple[Tensor, Tensor, Tensor]:
        """Scores, beams and tokens of the best 2K continuations, best first: at most K of them end, so that K go on."""
        documents, beams = self.scores_BK.shape
        positions_Q = torch.arange(self.computed, self.length, device=self.tokens_BQ.device)
        hidden_BQD = self.decoder.step(self.tokens_BQ, positions_Q, self.seen_BQP)
        self.computed = self.length
        hidden_RD = hidden_BQD[:, -beams:].flatten(0, 1)
        repeats_RN = repeated_ngrams(self.sequences_BKT.flatten(0, 1), self.config.no_repeat_ngram_size)
        spare = int((repeats_RN >= 0).sum(dim=1).max()) if repeats_RN.numel() else 0
        scores_RC, tokens_RC = self.decoder.candidates(hidden_RD, 2 * self.beams + spare)
        if spare:
            banned_RC = (tokens_RC[:, :, None] == repeats_RN[:, None]).any(dim=2)
            scores_RC = scores_RC.masked_fill(banned_RC, -torch.inf)
        total_BKC = self.scores_BK[:, :, None] + scores_RC.unflatten(0, (documents, beams))
        total_BC, chosen_BC = total_BKC.flatten(1).topk(2 * self.beams)
        tokens_BC = tokens_RC.reshape(documents, -1).gather(1, chosen_BC)
        return total_BC, chosen_BC // scores_RC.shape[1], tokens_BC

    def end(self, longer_BCT: Tensor, total_BC: Tensor) -> None:
        """Keep the K best ended hypotheses; one that ends now counts only if it is among the best K candidates."""
        generated = longer_BCT.shape[2] - 1
        new_BK = total_BC[:, : self.beams] / generated**self.config.length_penalty
        self.ended_scores_BK, chosen_BK = torch.cat([self.ended_scores_BK, new_BK], dim=1).topk(self.beams)
        padding = (0, self.limit - longer_BCT.shape[2])
        new_BKL = nn.functional.pad(longer_BCT[:, : self.beams], padding, value=self.config.pad_token_id)
        self.ended_BKL = _pick(torch.cat([self.ended_BKL, new_BKL], dim=1), chosen_BK)

    def go_on(self, longer_BCT: Tensor, total_BC: Tensor, parents_BC: Tensor) -> None:
        """Continue with the K best candidates that do not end."""
        own_BKK = torch.eye(self.beams, device=total_BC.device).bool().expand(len(total_BC), -1, -1)
        seen_BKP = self.seen_BQP[:, -self.scores_BK.shape[1] :]
        self.scores_BK, chosen_BK = total_BC.topk(self.beams)
        self.sequences_BKT = _pick(longer_BCT, chosen_BK)
        self.tokens_BQ = self.sequences_BKT[:, :, -1]
        self.seen_BQP = torch.cat([_pick(seen_BKP, parents_BC.gather(1, chosen_BK)), own_BKK], dim=2)

    def settle(self) -> None:
        """Write down and drop the documents of which no running beam can become better than all that ended."""
        generated = self.length - 1
        if self.config.early_stopping == "never" and self.config.length_penalty > 0:
            generated = self.limit - 1
        worst_B, best_B = self.ended_scores_BK[:, -1], self.scores_BK[:, 0] / generated**self.config.length_penalty
        open_B = worst_B.isneginf() if self.config.early_stopping is True or self.beams == 1 else best_B > worst_B
        if open_B.all():
            return
        self.outputs_BNL[self.rows_B[~open_B]] = self.ended_BKL[~open_B, : self.returned]
        kept = open_B.nonzero()[:, 0]
        self.decoder.keep(kept)
        for name in ("rows_B", "sequences_BKT", "scores_BK", "tokens_BQ", "seen_BQP", "ended_BKL", "ended_scores_BK"):
            setattr(self, name, getattr(self, name)[kept])


def repeated_ngrams(sequences_RT: Tensor, size: int) -> Tensor:
    """Tokens that would make an n-gram of this size occur again, [R, N], -1 where there is none."""
    if size == 0 or sequences_RT.shape[1] < size:
        return sequences_RT[:, :0]
    ngrams_RNn = sequences_RT.unfold(1, size, 1)
    begun_R1n = sequences_RT[:, None, sequences_RT.shape[1] - size + 1 :]
    return ngrams_RNn[:, :, -1].masked_fill((ngrams_RNn[:, :, :-1] != begun_R1n).any(dim=2), -1)


def _pick(tensor_BKX: Tensor, chosen_BC: Tensor) -> Tensor:
    """Choose rows of each document: [B, K, X] and [B, C] give [B, C, X]."""
    return tensor_BKX.gather(1, chosen_BC[:, :, None].expand(-1, -1, tensor_BKX.shape[2]))


def _additive(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    """An attention mask to be added: 0 where allowed, -inf elsewhere."""
    return torch.zeros_like(allowed, dtype=dtype).masked_fill(~allowed, -torch.inf)
