// The words of the page in English and Korean. Elements name theirs by data-text (content) or data-label (aria-label).

const ENGLISH = {
  title: "Panorama viewer",
  choose: "Choose a panorama",
  drop: "Drop a panorama here, or choose one.",
  dropHint: "A 360° picture, twice as wide as high: JPEG, PNG, WebP or AVIF.",
  panorama: "Panorama",
  language: "한국어",
  languageLabel: "이 페이지를 한국어로 보기",
  sphere: "The panorama from inside. Arrow keys turn, plus and minus zoom, Home looks to the front, Enter marks the middle.",
  flat: "The whole panorama, flat. A click turns the view above to that place.",
  look: "Looking at",
  yaw: "yaw",
  pitch: "pitch",
  front: "Front",
  right: "Right",
  back: "Back",
  left: "Left",
  showViews: "Show the view that the model’s encoder sees here",
  showNames: "Show names",
  what: "What is here?",
  whatQuestion: "What is at yaw {yaw}, pitch {pitch}?",
  talk: "Ask about it",
  ask: "Ask",
  stop: "Stop",
  question: "Your question",
  task: "What to do",
  taskAsk: "Answer in words",
  taskDetect: "Find boxes",
  taskSegment: "Draw an outline",
  taskPoint: "Point",
  newTalk: "Start anew",
  you: "You",
  model: "Model",
  key: "Key for this server",
  keyUse: "Use",
  stopped: "stopped",
  onSphere: "Show on the panorama",
  questions: "Questions and answers",
  answered: "Answered",
  truth: "True answer",
  correct: "right",
  wrong: "wrong",
  all: "all questions",
  onlyWrong: "only wrong answers",
  kind: "Kind",
  who: "Who answered",
  variantModel: "the model",
  variantBlind: "the same without the picture",
  variantShuffled: "the model, shown another picture",
  count: "{shown} of {all} questions; {right} right, {wrong} wrong",
  none: "No question fits.",
  legendGiven: "answered",
  legendTrue: "true",
  empty: "(empty)",
  overlap: "overlap {value}",
  away: "{value}° away",
  noPicture: "{name} cannot be shown: it is no picture that this browser reads. Choose a JPEG, PNG, WebP or AVIF file.",
  notTwoToOne:
    "{name} is {width} × {height}. A panorama is twice as wide as high; this width needs {height2} rows. Choose another picture.",
  noWebgl: "This browser cannot draw the sphere (it has no WebGL 2). The flat view works.",
  refused: "The server refused: {message}",
  unreachable: "The server does not answer. Is it still running?",
  broken: "The answer ended before it was complete.",
  nothingFound: "nothing found",
  loading: "Loading",
  zoomIn: "Closer",
  zoomOut: "Further away",
  fullscreen: "Full screen",
};

export type Word = keyof typeof ENGLISH;
export type Language = "en" | "ko";

const KOREAN: Record<Word, string> = {
  title: "파노라마 뷰어",
  choose: "파노라마 선택",
  drop: "파노라마를 여기에 끌어다 놓거나 선택하세요.",
  dropHint: "가로가 세로의 두 배인 360° 사진: JPEG, PNG, WebP, AVIF.",
  panorama: "파노라마",
  language: "English",
  languageLabel: "Show this page in English",
  sphere: "안에서 본 파노라마. 화살표 키로 돌리고, 더하기와 빼기로 확대·축소하고, Home은 정면, Enter는 가운데를 표시합니다.",
  flat: "펼쳐 놓은 파노라마 전체. 누르면 위 화면이 그곳을 봅니다.",
  look: "보는 방향",
  yaw: "요",
  pitch: "피치",
  front: "앞",
  right: "오른쪽",
  back: "뒤",
  left: "왼쪽",
  showViews: "모델의 인코더가 여기서 보는 시야 표시",
  showNames: "이름 표시",
  what: "여기에 무엇이 있나요?",
  whatQuestion: "요 {yaw}, 피치 {pitch}에 무엇이 있나요?",
  talk: "물어보기",
  ask: "묻기",
  stop: "멈추기",
  question: "질문",
  task: "할 일",
  taskAsk: "말로 답하기",
  taskDetect: "상자로 찾기",
  taskSegment: "윤곽 그리기",
  taskPoint: "가리키기",
  newTalk: "새로 시작",
  you: "나",
  model: "모델",
  key: "이 서버의 키",
  keyUse: "사용",
  stopped: "멈춤",
  onSphere: "파노라마에 표시",
  questions: "질문과 답",
  answered: "답",
  truth: "정답",
  correct: "맞음",
  wrong: "틀림",
  all: "모든 질문",
  onlyWrong: "틀린 답만",
  kind: "종류",
  who: "답한 쪽",
  variantModel: "모델",
  variantBlind: "그림 없이 배운 모델",
  variantShuffled: "다른 그림을 본 모델",
  count: "질문 {all}개 중 {shown}개; 맞음 {right}, 틀림 {wrong}",
  none: "해당하는 질문이 없습니다.",
  legendGiven: "답",
  legendTrue: "정답",
  empty: "(비어 있음)",
  overlap: "겹침 {value}",
  away: "{value}° 차이",
  noPicture: "{name}: 이 브라우저가 읽을 수 있는 그림이 아닙니다. JPEG, PNG, WebP 또는 AVIF 파일을 선택하세요.",
  notTwoToOne:
    "{name}: {width} × {height}. 파노라마는 가로가 세로의 두 배여야 하며, 이 가로에는 세로 {height2}가 필요합니다. 다른 그림을 선택하세요.",
  noWebgl: "이 브라우저는 구를 그릴 수 없습니다(WebGL 2 없음). 펼친 그림은 볼 수 있습니다.",
  refused: "서버가 거절했습니다: {message}",
  unreachable: "서버가 응답하지 않습니다. 아직 실행 중인가요?",
  broken: "답이 끝나기 전에 끊겼습니다.",
  nothingFound: "찾은 것이 없습니다",
  loading: "불러오는 중",
  zoomIn: "확대",
  zoomOut: "축소",
  fullscreen: "전체 화면",
};

const WORDS: Record<Language, Record<Word, string>> = { en: ENGLISH, ko: KOREAN };
let current: Language = navigator.language.toLowerCase().startsWith("ko") ? "ko" : "en";

export function language(): Language {
  return current;
}

/** The text of a word, with values in place of its {names}. */
export function text(word: Word, values: Record<string, string | number> = {}): string {
  return WORDS[current][word].replaceAll(/\{(\w+)\}/g, (_, name: string) => String(values[name] ?? ""));
}

export function setLanguage(chosen: Language): void {
  current = chosen;
  translate();
}

/** Write the words of the current language into the page. */
export function translate(root: ParentNode = document): void {
  document.documentElement.lang = current;
  document.title = `${text("title")} · PanoLLaVA`;
  for (const element of root.querySelectorAll<HTMLElement>("[data-text]")) {
    element.textContent = text(element.dataset["text"] as Word);
  }
  for (const element of root.querySelectorAll<HTMLElement>("[data-label]")) {
    element.setAttribute("aria-label", text(element.dataset["label"] as Word));
  }
}
