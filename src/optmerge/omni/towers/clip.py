"""CLIP's patches, of the last layer but one, as LLaVA takes them."""

from optmerge.omni.towers._kind import TowerKind
from optmerge.omni.towers._pictures import extract, extractor, features, grid

KIND = TowerKind(
    name="clip",
    modality="image",
    encoders=("clip_vision_model",),
    grid=grid,
    features=features,
    extractor=extractor,
    extract=extract,
    layer=-2,
)
