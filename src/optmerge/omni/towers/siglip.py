"""SigLIP's patches, which have no class token among them."""

from optmerge.omni.towers import _pictures
from optmerge.omni.towers._kind import TowerKind

KIND = TowerKind(
    name="siglip",
    modality="image",
    encoders=("siglip_vision_model",),
    grid=_pictures.grid,
    features=_pictures.features,
    extractor=_pictures.extractor,
    extract=_pictures.extract,
)
