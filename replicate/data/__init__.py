"""From files to batches: data sets, their long-tailed subsets, augmentation.

:mod:`~replicate.data.sources` reads the files (photographs through :mod:`~replicate.data.folders`, which keeps them decoded
with :mod:`~replicate.data.decoded`), :mod:`~replicate.data.longtail` draws the subset, all in numpy;
:mod:`~replicate.data.augment` and :mod:`~replicate.data.photographs` make batches and are, with the
:mod:`~replicate.data.normalisation` that they share, the only modules here that import torch.
"""
