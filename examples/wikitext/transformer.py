"""A Transformer as word-level language model: feedback after every encoder layer, error taken before the vocabulary.

    python examples/wikitext/transformer.py --train train.txt.gz --valid valid.txt.gz [--steps 600]

Two text files, such as those of WikiText-2. The error has 128 features, not as many as the vocabulary has words, at the
price of one weight transport, through the vocabulary layer. In an encoder layer, gradients are backpropagated.
"""

import argparse
import gzip
import math
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import optical_dfa as odfa

WORDS, CONTEXT, WIDTH, BATCH = 4000, 64, 128, 16
DEVICE = {"name": "emulator", "photometry": {"signal_e_per_feature": 25.0}}  # ten are ON: the preset's 250 saturate


class LanguageModel(nn.Module):
    """Embedding, encoder layers with a causal mask, norm, vocabulary."""

    def __init__(self, n_words: int) -> None:
        super().__init__()
        self.words, self.positions = nn.Embedding(n_words, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        layer: dict[str, Any] = {"dim_feedforward": 4 * WIDTH, "dropout": 0.0, "batch_first": True, "norm_first": True}
        self.layers = nn.ModuleList(nn.TransformerEncoderLayer(WIDTH, 4, **layer) for _ in range(4))
        self.norm, self.vocabulary = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, n_words)

    def forward(self, text: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(text.shape[1])
        h = self.words(text) + self.positions.weight[: text.shape[1]]
        for layer in self.layers:
            h = layer(h, src_mask=mask, is_causal=True)
        return self.vocabulary(self.norm(h))


def read(path: Path) -> list[str]:
    """Words of a text file, plain or gzipped, with one more at the end of each line."""
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
        return file.read().replace("\n", " <eos> ").split()


def loss_of(net: nn.Module, text: Tensor, starts: Tensor) -> Tensor:
    """Mean cross-entropy of the next word."""
    chunk = torch.stack([text[start : start + CONTEXT + 1] for start in starts])
    return cross_entropy(net(chunk[:, :-1]).flatten(0, 1), chunk[:, 1:].flatten())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--valid", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=600)
    options = parser.parse_args()
    texts = read(options.train), read(options.valid)
    words = {word: i for i, (word, _) in enumerate(Counter(texts[0]).most_common(WORDS), 1)}  # 0: all others
    train, valid = (torch.tensor([words.get(word, 0) for word in text]) for text in texts)
    for mode in ("bp", "dfa", "shallow"):
        torch.manual_seed(0)
        net = LanguageModel(1 + len(words))
        optimiser = torch.optim.Adam(net.parameters(), 5e-4, betas=(0.9, 0.999))
        with odfa.attach(net, after=nn.TransformerEncoderLayer, error_at="norm", device=DEVICE) as feedback:
            feedback.mode = mode
            for _ in range(options.steps):
                optimiser.zero_grad()
                loss_of(net, train, torch.randint(len(train) - CONTEXT, (BATCH,))).backward()
                optimiser.step()
            if mode == "dfa":
                print(feedback.audit(), feedback.device.usage, sep="\n\n", end="\n\n")
            with torch.no_grad():
                starts = torch.arange(0, len(valid) - CONTEXT, CONTEXT).split(4 * BATCH)
                loss = sum(len(part) * loss_of(net, valid, part) for part in starts) / sum(map(len, starts))
            print(f"{mode:7}: perplexity {math.exp(loss):.1f} of the validation text", flush=True)
