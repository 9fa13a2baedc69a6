"""The fast engine: the decoder layers of Llama-like models and their loss, computed with less work and less memory.

The modules of the model stay as they are: this package reads their weights and computes beside their `forward`, so that
saving, checkpoints, generation and evaluation by other parts see the plain model.
"""

from .choosing import EngineChoice, choose_engine
from .model import FastModel
from .trainer import FastTrainer

__all__ = ["EngineChoice", "FastModel", "FastTrainer", "choose_engine"]
