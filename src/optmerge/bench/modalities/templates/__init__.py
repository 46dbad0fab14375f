"""The forms of the questions: `single` needs one modality, `joint` two or all."""
