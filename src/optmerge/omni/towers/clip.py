"""CLIP's patches, of the last layer but one, as LLaVA takes them."""

from optmerge.omni.towers import _pictures
from optmerge.omni.towers._kind import TowerKind

KIND = TowerKind(
    name="clip",
    modality="image",
    encoders=("clip_vision_model",),
    grid=_pictures.grid,
    features=_pictures.features,
    extractor=_pictures.extractor,
    extract=_pictures.extract,
    layer=-2,
)
