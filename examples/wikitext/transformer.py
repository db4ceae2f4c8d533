"""A Transformer as word-level language model: feedback after every encoder layer, error taken before the vocabulary.

    python examples/wikitext/transformer.py train.txt valid.txt [--steps 600] [--seeds 1]

Two texts, such as those of WikiText-2. The error has 128 features, not as many as the vocabulary has words, at the
price of one weight transport, through the vocabulary layer. Results: docs/results/examples.md.
"""

import argparse
import math
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import optical_dfa as odfa

WORDS, CONTEXT, WIDTH, BATCH = 4000, 64, 128, 16
OPTICAL = {"name": "emulator", "photometry": {"signal_e_per_feature": 10.0}}  # 60 are ON: the preset's 250 saturate
METHODS: dict[str, tuple[Any, dict[str, Any]]] = {
    "backpropagation": ("bp", {}),
    "exact DFA": ("dfa", {"device": "digital", "ternarize": None}),
    "optical DFA": ("dfa", {"device": OPTICAL, "ternarize": odfa.Ternarize(0.25)}),
    "shallow control": ("shallow", {}),
}


class LanguageModel(nn.Module):
    """Embedding, encoder layers with a causal mask and a norm, vocabulary."""

    def __init__(self, n_words: int) -> None:
        super().__init__()
        self.words, self.positions = nn.Embedding(n_words, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 4 * WIDTH, dropout=0.0, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 4, nn.LayerNorm(WIDTH), enable_nested_tensor=False)
        self.vocabulary = nn.Linear(WIDTH, n_words)

    def forward(self, text: Tensor) -> Tensor:
        h = self.words(text) + self.positions.weight[: text.shape[1]]
        mask = nn.Transformer.generate_square_subsequent_mask(text.shape[1])
        return self.vocabulary(self.encoder(h, mask, is_causal=True))


def next_word_loss(net: nn.Module, chunks: Tensor) -> Tensor:
    return nn.functional.cross_entropy(net(chunks[:, :-1]).flatten(0, 1), chunks[:, 1:].flatten())


def perplexity(name: str, n_words: int, train: Tensor, valid: Tensor, steps: int, seed: int) -> float:
    """Of the validation text after training; the first run of `optical DFA` prints its audit."""
    mode, options = METHODS[name]
    torch.manual_seed(seed)
    net = LanguageModel(n_words)
    optimiser = torch.optim.Adam(net.parameters(), 5e-4)
    with odfa.attach(net, after=nn.TransformerEncoderLayer, error_at="encoder.norm", **options) as feedback:
        feedback.mode = mode
        for _ in range(steps):
            optimiser.zero_grad()
            next_word_loss(net, train[torch.randint(len(train), (BATCH,))]).backward()
            optimiser.step()
        if name == "optical DFA" and not seed:
            print(feedback.audit(), feedback.device.usage, sep="\n\n", end="\n\n")
    with torch.no_grad():
        return math.exp(sum(len(part) * next_word_loss(net, part) for part in valid.split(64)) / len(valid))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", type=Path, nargs=2, help="training and validation text")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds of weights and batches")
    options = parser.parse_args()
    texts = [path.read_text("utf-8").replace("\n", " <eos> ").split() for path in options.texts]
    words = {word: i for i, (word, _) in enumerate(Counter(texts[0]).most_common(WORDS), 1)}  # 0: all others
    train, valid = (torch.tensor([words.get(word, 0) for word in text]) for text in texts)
    data = train.unfold(0, CONTEXT + 1, 1), valid.unfold(0, CONTEXT + 1, CONTEXT)
    for name in METHODS:
        found = [perplexity(name, 1 + len(words), *data, options.steps, seed) for seed in range(options.seeds)]
        print(f"{name}: perplexity {', '.join(f'{one:.1f}' for one in found)} of the validation text", flush=True)
