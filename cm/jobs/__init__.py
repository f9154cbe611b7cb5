"""Long trainings as jobs that outlive whoever started them: submitted through submitit, waited for, found again."""
