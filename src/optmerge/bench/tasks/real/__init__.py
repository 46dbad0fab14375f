"""Tasks whose questions come from a data set on disk, one file each.

A file here declares `TASK`, a `DataSet`, whose `load` reads the data set's own files. The data set lies in a
folder of the task's name under `data`, or under the folder that the environment variable `OPTMERGE_DATA`
names.
`tests/conformance/test_data_sets.py` asks of every data set, over a tiny one in the same format:

1. Every accepted answer scores 1 under every metric; an empty answer and nonsense score 0.
2. Items are in an order drawn once for each split: fewer are the beginning of more, and every call gives the
   same.
3. An item is about a picture, or about a video that is there; `where` names its file and row.
4. A row that can't be understood, a missing video, a missing folder and a split that the data set doesn't
   have are refused by name, never passed over.
"""
