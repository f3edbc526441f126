"""From files to batches: data sets, their long-tailed subsets, augmentation.

:mod:`~replicate.data.sources` reads the files, :mod:`~replicate.data.longtail` draws the subset, both in numpy;
:mod:`~replicate.data.augment` makes batches and is the only module here that imports torch.
"""
