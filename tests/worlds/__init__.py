"""What tests share: tiny models, folders as users have them, ways to run things soon. Nothing is downloaded.

Worlds to merge:

* `merges`: checkpoints in Llama's names, written without transformers; a merge takes milliseconds.
* `models`: a real model of every family, from its configuration; `saved`: the same on disk.
* `model_types`: a tiny model of every type that transformers declares, from its default config.
* `deltas`: random deltas for properties; `methods`: what the registered methods say of themselves.
* `lapack_noise`: what methods that use a null space give on this machine.

Worlds to compose:

* `omni`: omni models with every kind of tower, and pictures, sounds and videos to show them.
* `omni_zoo`: a base language model and experts of it; `omni_originals`: checkpoints as if downloaded.
* `videos`: encoded videos with sound.

Worlds to compare:

* `lines`: the benchmark's lines so small that training takes seconds; `modalities`: the modality benchmark's.
* `random_zoo`: a zoo of both lines whose models answer nonsense; `records`: a run's records, made up.
* `plugins`: packages as a user would install them.

Ways to run:

* `shared`: a folder that one of pytest's processes makes and all of them read.
* `commands`: command lines in processes that start in milliseconds; `in_process`: workers without any.
* `samples`: how much of what is exhaustive is tried.
"""
