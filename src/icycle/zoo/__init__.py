"""The zoo: models and data sets by name."""

from icycle.zoo._augment import Augment
from icycle.zoo._batches import Augmentation, Images, SealedLoader, TensorLoader
from icycle.zoo._data import Data, load_data
from icycle.zoo._loaders import Batches, DatasetLoader, Examples, OwnLoader
from icycle.zoo._models import build_model, example_shape, model, model_names, require_model
from icycle.zoo._sources import Place, Source, dataset_names, read_source, require_dataset, source
from icycle.zoo._split import stratified_split
from icycle.zoo._weights import is_weights_file, load_weights

__all__ = [
    "Augment",
    "Augmentation",
    "Batches",
    "Data",
    "DatasetLoader",
    "Examples",
    "Images",
    "OwnLoader",
    "Place",
    "SealedLoader",
    "Source",
    "TensorLoader",
    "build_model",
    "dataset_names",
    "example_shape",
    "is_weights_file",
    "load_data",
    "load_weights",
    "model",
    "model_names",
    "read_source",
    "require_dataset",
    "require_model",
    "source",
    "stratified_split",
]
