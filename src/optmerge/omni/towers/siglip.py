"""SigLIP's patches, which have no class token among them."""

from optmerge.omni.towers._kind import TowerKind
from optmerge.omni.towers._pictures import extract, extractor, features, grid

KIND = TowerKind(
    name="siglip",
    modality="image",
    encoders=("siglip_vision_model",),
    grid=grid,
    features=features,
    extractor=extractor,
    extract=extract,
)
